"""What the page's verbs ask of the service and show of its answers."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import httpx

from playground.actions import Actions
from playground.client import Service
from playground.requests import NEWEST, Asking

T = TypeVar("T")
ASKING = Asking("tiny@5", 0.5, 0.9, 40, 16, "7", "x\n\ny")
ENDING = {
    "text": "!",
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    "timings": {"queue_s": 0.0, "ttft_s": 0.01, "total_s": 0.02},
    "checkpoint": {"name": "tiny@5"},
    "seed": 3,
}


class Desk:
    """A service with fixed answers by path, and what it was asked."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[dict[str, Any]] = []

    def actions(self) -> Actions:
        return Actions(Service(url="http://s", transport=httpx.MockTransport(self.answer)))

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.content:
            self.asked.append(json.loads(request.content))
        answer = self.answers.get(request.url.path)
        if answer is None:
            return httpx.Response(404, json={"error": {"message": "no such route"}})
        if isinstance(answer, list):
            events = [f"data: {json.dumps(event)}\n\n" for event in answer]
            return httpx.Response(200, text="".join([*events, "data: [DONE]\n\n"]))
        return httpx.Response(200, json=answer)


def all_of(shown: AsyncIterator[T]) -> list[T]:
    async def collect() -> list[T]:
        return [one async for one in shown]

    return asyncio.run(collect())


def test_a_prompt_is_asked_as_it_is_set_and_shown_as_it_grows() -> None:
    desk = Desk({"/generate": [{"token_id": 1, "text": " b"}, ENDING]})
    shown = all_of(desk.actions().generate("a", ASKING))
    assert [text for text, _ in shown] == ["a", "a b", "a b!"]
    assert [said for _, said in shown[:-1]] == [None, None], "the line under it stays as it is"
    assert "100 tokens/s" in (shown[-1][1] or "")
    assert desk.asked == [
        {
            "prompt": "a",
            "model": "tiny@5",
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "max_new_tokens": 16,
            "seed": 7,
            "stop": ["x", "y"],
            "stream": True,
        }
    ]


def test_the_newest_checkpoint_and_a_drawn_seed_are_the_service_s_choice() -> None:
    desk = Desk({"/generate": [ENDING]})
    all_of(desk.actions().generate("a", Asking()))
    assert not {"model", "seed"} & desk.asked[0].keys()


def test_a_refusal_stands_under_the_text() -> None:
    shown = all_of(Desk({}).actions().generate("a", Asking()))
    assert shown[-1] == ("a", "⚠️ no such route")


def test_a_seed_that_is_no_number_is_refused_unasked() -> None:
    desk = Desk({"/generate": [ENDING]})
    shown = all_of(desk.actions().generate("a", Asking(seed="lucky")))
    assert shown[-1] == ("a", "⚠️ the seed is to be a whole number, and 'lucky' is none")
    assert desk.asked == []


def chunk(content: str | None, reason: str | None = None) -> dict[str, Any]:
    delta = {} if content is None else {"content": content}
    return {"model": "tiny@5", "choices": [{"delta": delta, "finish_reason": reason}]}


USAGE = {"model": "tiny@5", "choices": [], "usage": {"completion_tokens": 2}}


def test_a_chat_goes_on_with_all_its_messages() -> None:
    chunks = [chunk(""), chunk("Hel"), chunk("lo"), chunk(None, "stop"), USAGE]
    desk = Desk({"/v1/chat/completions": chunks})
    so_far = [{"role": "user", "content": [{"type": "text", "text": "Hi"}], "metadata": None}]
    shown = all_of(desk.actions().chat(so_far, ASKING))
    asked = [{"role": "user", "content": "Hi"}]
    messages, said = shown[-1]
    assert messages == [*asked, {"role": "assistant", "content": "Hello"}]
    assert re.fullmatch(
        r"[\d,]+ tokens/s · first token after \d+ ms · 2 tokens · `tiny@5` · stop", said or ""
    )
    assert {said for _, said in shown[:-1]} == {None}
    assert desk.asked == [
        {
            "model": "tiny@5",
            "messages": asked,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "max_tokens": 16,
            "seed": 7,
            "stop": ["x", "y"],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_a_chat_with_the_newest_names_the_alias_that_the_protocol_wants() -> None:
    desk = Desk({"/v1/chat/completions": [chunk("a", "stop"), USAGE]})
    all_of(desk.actions().chat([{"role": "user", "content": "Hi"}], Asking()))
    assert desk.asked[0]["model"] == "latest"


def test_a_chat_that_breaks_off_keeps_what_was_said() -> None:
    desk = Desk({"/v1/chat/completions": [chunk("Hel"), {"error": {"message": "it broke"}}]})
    *_, (messages, said) = all_of(
        desk.actions().chat([{"role": "user", "content": "Hi"}], Asking())
    )
    assert messages[-1] == {"role": "assistant", "content": "Hel"}
    assert said == "⚠️ it broke"


def test_a_chat_without_a_question_asks_nothing() -> None:
    answered = [{"role": role, "content": "a"} for role in ("user", "assistant")]
    for messages in ([], answered):
        desk = Desk({})
        shown = all_of(desk.actions().chat(messages, Asking()))
        assert shown == [(messages, "⚠️ type a message first")]
        assert desk.asked == []


def test_one_prompt_is_compared_with_one_seed() -> None:
    desk = Desk({"/generate": {"text": " b"}})
    page = asyncio.run(desk.actions().compare("a", ["tiny@5", "tiny@9"], 8, 0.0))
    assert page.index("tiny@5") < page.index("tiny@9")
    assert page.count("a b") == 2
    assert {(body["model"], body["seed"]) for body in desk.asked} == {("tiny@5", 0), ("tiny@9", 0)}
    assert "choose at least one" in asyncio.run(desk.actions().compare("a", [], 8, 0.0))


def test_checkpoints_are_listed_newest_first() -> None:
    listed = [
        {"id": name, "checkpoint": checkpoint, "created": created}
        for name, checkpoint, created in (
            ("latest", "tiny@9", 9),
            ("tiny@5", "tiny@5", 5),
            ("tiny@9", "tiny@9", 9),
        )
    ]
    assert asyncio.run(Desk({"/v1/models": {"data": listed}}).actions().models()) == [
        NEWEST,
        "tiny@9",
        "tiny@5",
    ]
    assert asyncio.run(Desk({}).actions().models()) is None, "what was listed stays"


def test_watching_says_what_is_served_draws_it_and_shows_samples() -> None:
    metrics = {"val_bits_per_byte": 2.5}
    one = {"run": "tiny", "step": 5, "name": "tiny@5", "status": "served", "reason": None}
    history = {
        "training": [{"step": 1, "loss": 3.0}],
        "evaluations": [],
        "served": [],
        "samples": [{"step": 5, "prompt": "a", "text": "b"}],
    }
    desk = Desk(
        {
            "/checkpoints": {
                "run": "tiny",
                "checkpoints": [one | {"metrics": metrics, "flags": ["memorising"]}],
            },
            "/runs/tiny/history": history,
        }
    )
    line, drawn, samples = asyncio.run(desk.actions().watch())
    assert line == "Served now: `tiny@5` · 2.500 held-out bits per byte · memorising"
    assert drawn.startswith("<svg")
    assert "step 5" in samples


def test_watching_a_service_without_a_run_or_without_a_service_says_so() -> None:
    empty = Desk({"/checkpoints": {"run": None, "checkpoints": []}})
    assert "first one will appear here" in asyncio.run(empty.actions().watch())[0]
    assert asyncio.run(Desk({}).actions().watch())[0] == "⚠️ no such route"
