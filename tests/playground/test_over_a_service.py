"""The page's verbs over a real service: what they ask is what it takes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

import pytest
from serving import LiveService, toy_settings
from toys import publish_toy

from playground.actions import Actions
from playground.client import Service
from playground.requests import NEWEST, Asking

T = TypeVar("T")


@pytest.fixture(scope="module")
def actions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Actions]:
    volume = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "toy", 7)
    with LiveService(toy_settings(volume)) as service:
        service.wait_ready()
        yield Actions(Service(url=str(service.client.base_url)))


def asking(model: str) -> Asking:
    return Asking(model, temperature=0.8, top_p=0.9, top_k=40, max_tokens=8, seed="3")


def last_of(shown: AsyncIterator[T]) -> T:
    async def collect() -> list[T]:
        return [one async for one in shown]

    return asyncio.run(collect())[-1]


def test_a_prompt_is_continued(actions: Actions) -> None:
    text, said = last_of(actions.generate("To be", asking("toy@7")))
    assert text.startswith("To be")
    assert len(text) > len("To be")
    assert "seed 3 · `toy@7`" in (said or "")


@pytest.mark.parametrize("model", [NEWEST, "toy@7"])
def test_a_chat_is_answered(actions: Actions, model: str) -> None:
    so_far = [{"role": "user", "content": "To be"}]
    messages, said = last_of(actions.chat(so_far, asking(model)))
    assert "first token after" in (said or "")
    assert "8 tokens · `toy@7` · length" in (said or "")
    assert [one["role"] for one in messages] == ["user", "assistant"]
    assert messages[1]["content"]


def test_a_refused_value_is_said_in_the_service_s_words(actions: Actions) -> None:
    text, said = last_of(actions.generate("To be", asking("toy@8")))
    assert text == "To be"
    assert said is not None
    assert said.startswith("⚠️")
    assert "toy@7" in said, "it names what there is"
    _, said = last_of(actions.chat([{"role": "user", "content": "a"}], asking("toy@8")))
    assert said is not None
    assert said.startswith("⚠️")


def test_checkpoints_are_listed_compared_and_watched(actions: Actions) -> None:
    assert asyncio.run(actions.models()) == [NEWEST, "toy@7"]
    assert "To be" in asyncio.run(actions.compare("To be", ["toy@7"], 4, 0.0))
    line, _, samples = asyncio.run(actions.watch())
    assert line.startswith("Served now: `toy@7`")
    assert samples == "<p>No samples yet.</p>"
