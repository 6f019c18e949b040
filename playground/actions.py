"""What happens when a person does something: pure of the page, so that tests call it directly.

Every action yields or returns what is shown; what goes wrong is shown too, in words.
"""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from playground import text as words
from playground.client import Json, Problem, Service
from playground.curves import curves
from playground.reply import Reply
from playground.requests import NEWEST, Asking, chosen
from playground.timing import Stopwatch

T = TypeVar("T")
Shown = tuple[T, str | None]
"""What is shown and the line under it; None leaves the line as it is."""

MAX_SIDE_BY_SIDE = 4
SAMPLES_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class Actions:
    """The page's verbs, over one service."""

    service: Service

    async def generate(self, prompt: str, asking: Asking) -> AsyncGenerator[Shown[str], None]:
        """Text so far and, once it is known, what is said under it."""
        text = prompt
        yield text, None
        try:
            body = {"prompt": prompt, **asking.fields("max_new_tokens")}
            async with aclosing(self.service.stream("/generate", body)) as events:
                async for event in events:
                    text += event["text"]
                    yield text, words.answered(event) if "finish_reason" in event else None
        except Problem as error:
            yield text, words.problem(error)

    async def chat(
        self, messages: Sequence[Json], asking: Asking
    ) -> AsyncGenerator[Shown[list[Json]], None]:
        """Messages with the answer so far and, once it is known, what is said under them."""
        said = [{"role": one["role"], "content": _plain(one["content"])} for one in messages]
        shown = said
        try:
            body = _chat(said, asking)
            reply = Reply(Stopwatch())
            async with aclosing(self.service.stream("/v1/chat/completions", body)) as events:
                async for event in events:
                    reply.hear(event)
                    shown = [*said, {"role": "assistant", "content": reply.text}]
                    yield shown, None
            yield shown, reply.ending
        except Problem as error:
            yield shown, words.problem(error)

    async def compare(
        self, prompt: str, models: Sequence[str], max_new_tokens: float, temperature: float
    ) -> str:
        """One prompt continued by several checkpoints with the same seed."""
        if not models:
            return words.problem(Problem("choose at least one checkpoint"))
        body = {
            "prompt": prompt,
            "max_new_tokens": int(max_new_tokens),
            "temperature": temperature,
            "seed": 0,
        }
        asked = models[:MAX_SIDE_BY_SIDE]
        texts = await asyncio.gather(*(self._whole(body, model) for model in asked))
        return words.side_by_side(dict(zip(asked, texts, strict=True)))

    async def _whole(self, body: Json, model: str) -> str:
        try:
            answer = await self.service.post("/generate", body | chosen(model))
            return str(body["prompt"]) + str(answer["text"])
        except Problem as error:
            return words.problem(error)

    async def models(self) -> list[str] | None:
        """Names that can be asked, the newest first; None while the service is away."""
        try:
            listed = (await self.service.get("/v1/models"))["data"]
        except Problem:
            return None
        steps = {one["checkpoint"]: one["created"] for one in listed}
        return [NEWEST, *sorted(steps, key=lambda name: -steps[name])]

    async def watch(self) -> tuple[str, str, str]:
        """What is served, the curves of its run, and its samples."""
        try:
            listed = await self.service.get("/checkpoints")
            run = listed["run"]
            if run is None:
                return "No checkpoint yet: the trainer's first one will appear here.", "", ""
            history = await self.service.get(f"/runs/{run}/history")
        except Problem as error:
            return words.problem(error), "", ""
        own = [one for one in listed["checkpoints"] if one["run"] == run]
        served = next((one for one in own if one["status"] == "served"), None)
        line = "Nothing is served yet." if served is None else _served_line(served)
        return line, curves(history, own), words.samples(history["samples"][-SAMPLES_SHOWN:])


def _served_line(served: Json) -> str:
    bits = served["metrics"].get("val_bits_per_byte")
    measured = "" if bits is None else f" · {bits:.3f} held-out bits per byte"
    flags = "".join(f" · {flag}" for flag in served["flags"])
    return f"Served now: `{served['name']}`{measured}{flags}"


def _chat(messages: list[Json], asking: Asking) -> Json:
    """Body of a chat that waits for an answer; raises ``Problem``."""
    if not messages or messages[-1]["role"] != "user":
        raise Problem("type a message first")
    return {
        "model": "latest",  # which OpenAI's protocol wants named
        "messages": messages,
        "stream_options": {"include_usage": True},
        **asking.fields("max_tokens"),
    }


def _plain(content: Any) -> str:
    """A message's text; the page's own type has it in parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)
