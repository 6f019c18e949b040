"""The page's verbs over a real service: what they ask is what it takes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

import pytest
from serving import LiveService, toy_settings
from toys import publish_toy

from playground.actions import NEWEST, Actions
from playground.client import Service

T = TypeVar("T")


@pytest.fixture(scope="module")
def actions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Actions]:
    volume = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "toy", 7)
    with LiveService(toy_settings(volume)) as service:
        service.wait_ready()
        yield Actions(Service(url=str(service.client.base_url)))


def last_of(shown: AsyncIterator[T]) -> T:
    async def collect() -> list[T]:
        return [one async for one in shown]

    return asyncio.run(collect())[-1]


def test_a_prompt_is_continued(actions: Actions) -> None:
    text, said = last_of(actions.generate("To be", "toy@7", 0.8, 0.9, 40, 8, 3, ""))
    assert text.startswith("To be")
    assert len(text) > len("To be")
    assert "seed 3" in said
    assert "`toy@7`" in said


@pytest.mark.parametrize("model", [NEWEST, "toy@7"])
def test_a_chat_is_answered(actions: Actions, model: str) -> None:
    so_far = [{"role": "user", "content": "To be"}]
    messages, said = last_of(actions.chat(so_far, model, 0.8, 0.9, 8, 3))
    assert said == ""
    assert [one["role"] for one in messages] == ["user", "assistant"]
    assert messages[1]["content"]


def test_a_refused_value_is_said_in_the_service_s_words(actions: Actions) -> None:
    text, said = last_of(actions.generate("To be", "toy@8", 0.8, 0.9, 40, 8, 3, ""))
    assert text == "To be"
    assert said.startswith("⚠️")
    assert "toy@7" in said, "it names what there is"
    _, said = last_of(actions.chat([{"role": "user", "content": "a"}], "toy@8", 0, 1, 8, 3))
    assert said.startswith("⚠️")


def test_checkpoints_are_listed_compared_and_watched(actions: Actions) -> None:
    assert asyncio.run(actions.models()) == [NEWEST, "toy@7"]
    assert "To be" in asyncio.run(actions.compare("To be", ["toy@7"], 4, 0.0))
    line, _, samples = asyncio.run(actions.watch())
    assert line.startswith("Served now: `toy@7`")
    assert samples == "<p>No samples yet.</p>"
