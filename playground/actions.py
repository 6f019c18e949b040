"""What happens when a person does something: pure of the page, so that tests call it directly.

Every action yields or returns what is shown; what goes wrong is shown too, in words.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any

from playground import words
from playground.client import Json, Problem, Service
from playground.curves import curves

NEWEST = "newest"
MAX_SIDE_BY_SIDE = 4
SAMPLES_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class Actions:
    """The page's verbs, over one service."""

    service: Service

    async def generate(
        self,
        prompt: str,
        model: str,
        temperature: float,
        top_p: float,
        top_k: float,
        max_new_tokens: float,
        seed: float | None,
        stop: str,
    ) -> AsyncIterator[tuple[str, str]]:
        """Text so far and what is said under it."""
        body: Json = {
            "prompt": prompt,
            "max_new_tokens": int(max_new_tokens),
            "temperature": temperature,
            "top_p": top_p,
            "top_k": int(top_k),
            "stop": [one for one in stop.split("\n") if one],
            **_chosen(model, seed),
        }
        text = prompt
        yield text, "…"
        try:
            async for event in self.service.stream("/generate", body):
                text += event["text"]
                yield text, words.ending(event) if "finish_reason" in event else "…"
        except Problem as error:
            yield text, words.problem(error)

    async def chat(
        self,
        messages: Sequence[Json],
        model: str,
        temperature: float,
        top_p: float,
        max_tokens: float,
        seed: float | None,
    ) -> AsyncIterator[tuple[list[Json], str]]:
        """Messages with the answer so far, and what is said under them."""
        said = [{"role": one["role"], "content": _plain(one["content"])} for one in messages]
        body: Json = {
            "model": "latest",  # which OpenAI's protocol wants named
            "messages": said,
            "temperature": temperature,
            "top_p": top_p,
            "max_tokens": int(max_tokens),
            **_chosen(model, seed),
        }
        answer = ""
        try:
            async for event in self.service.stream("/v1/chat/completions", body):
                for choice in event["choices"]:
                    answer += choice["delta"].get("content") or ""
                yield [*said, {"role": "assistant", "content": answer}], "…"
            yield [*said, {"role": "assistant", "content": answer}], ""
        except Problem as error:
            yield said, words.problem(error)

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
        chosen = models[:MAX_SIDE_BY_SIDE]
        texts = await asyncio.gather(*(self._whole(body, model) for model in chosen))
        return words.side_by_side(dict(zip(chosen, texts, strict=True)))

    async def _whole(self, body: Json, model: str) -> str:
        try:
            answer = await self.service.post("/generate", body | _chosen(model, None))
            return str(body["prompt"]) + str(answer["text"])
        except Problem as error:
            return words.problem(error)

    async def models(self) -> list[str]:
        """Names that can be asked, the newest first; none while the service is away."""
        try:
            listed = (await self.service.get("/v1/models"))["data"]
        except Problem:
            return [NEWEST]
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


def _chosen(model: str, seed: float | None) -> Json:
    """Fields that are left out where the service should choose."""
    fields: Json = {} if model in ("", NEWEST) else {"model": model}
    if seed is not None:
        fields["seed"] = int(seed)
    return fields


def _plain(content: Any) -> str:
    """A message's text; the page's own type has it in parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)
