"""The first thing that is wrong is the only one that is looked for."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from service.http import bounds
from service.http.protocols.nestling.schemas import GenerateRequest
from service.http.protocols.openai.schemas import ChatRequest, CompletionRequest
from service.http.protocols.tgi.schemas import TGIRequest
from service.http.protocols.tokenize import DetokenizeRequest, TokenizeRequest

MANY = 20_000
SAID = {"role": "user", "content": "a"}
KEYS = {f"key {number}": 1 for number in range(MANY)}


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (CompletionRequest, {"prompt": [[-1] * MANY]}),
        (CompletionRequest, {"prompt": [[-1]] * MANY}),
        (CompletionRequest, {"prompt": ["a", [-1]] * MANY}),
        (CompletionRequest, {"prompt": "a"} | KEYS),
        (CompletionRequest, {"prompt": "a", "logit_bias": KEYS}),
        (CompletionRequest, {"prompt": "a", "stop": [1] * MANY}),
        (CompletionRequest, {"prompt": "a", "stop_token_ids": [-1] * MANY}),
        (CompletionRequest, {"prompt": "a", "response_format": KEYS}),
        (ChatRequest, {"messages": [1] * MANY}),
        (ChatRequest, {"messages": [SAID] * MANY}),
        (ChatRequest, {"messages": [SAID | {"x": 1}] * MANY}),
        (ChatRequest, {"messages": [SAID | KEYS]}),
        (ChatRequest, {"messages": [{"role": "user", "content": [1] * MANY}]}),
        (ChatRequest, {"messages": [{"role": "user", "content": [1] * 3}] * MANY}),
        (ChatRequest, {"messages": [{"role": "assistant", "tool_calls": [1] * MANY}]}),
        (ChatRequest, {"messages": [SAID], "tools": [1] * MANY}),
        (GenerateRequest, {"prompt": ["a"] * MANY}),
        (TGIRequest, {"inputs": "a", "parameters": KEYS}),
        (TGIRequest, {"inputs": "a", "parameters": {"stop": [1] * MANY}}),
        (TokenizeRequest, {"messages": [1] * MANY}),
        (DetokenizeRequest, {"tokens": [-1] * MANY}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_few_errors_are_made_of_many_faults(model: type[BaseModel], body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        model.model_validate(body)
    assert refused.value.error_count() <= 3  # one for each type that a value could have


def test_a_schema_is_bounded_in_size_and_width() -> None:
    bounds.check_schema_size({"enum": ["a"] * bounds.MAX_SCHEMA_WIDTH})
    with pytest.raises(ValueError, match="1001 entries in one place"):
        bounds.check_schema_size({"allOf": [{"enum": ["a"] * (bounds.MAX_SCHEMA_WIDTH + 1)}]})
    with pytest.raises(ValueError, match="bytes; it may have"):
        bounds.check_schema_size({"const": "a" * bounds.MAX_SCHEMA_BYTES})
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"items": deep}
    with pytest.raises(ValueError, match="nested too deeply"):
        bounds.check_schema_size(deep)
