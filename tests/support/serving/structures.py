"""Structured answers of a toy engine: what is asked, and what comes of it."""

import dataclasses
from typing import Any

from service.engine.engine import Engine
from service.engine.request import Finished, FinishReason, GenerationRequest, TokenGenerated
from serving.engines import generation_request

PROMPT = (40, 50, 60, 70, 80)


def closed(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    """Schema of an object without other properties; all of them are required if none are named."""
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties] if required is None else required,
        "additionalProperties": False,
    }


def ask(
    grammar: str, budget: int, *, temperature: float, seed: int, **sampling: Any
) -> GenerationRequest:
    """A request for an answer of a grammar within a budget in tokens."""
    request = generation_request(
        "a", PROMPT, max_new_tokens=budget, temperature=temperature, seed=seed, **sampling
    )
    return dataclasses.replace(request, grammar=grammar)


def answer(engine: Engine, request: GenerationRequest) -> tuple[str, FinishReason, int]:
    """Text, reason and number of tokens."""
    engine.submit(request)
    text, count = "", 0
    while not engine.is_idle:
        for event in engine.step():
            if isinstance(event, TokenGenerated):
                text, count = text + event.text, count + 1
            elif isinstance(event, Finished):
                text, reason = text + event.text, event.reason
    return text, reason, count
