import json

import pytest
from pydantic import ValidationError

from lm.sampling import MAX_SEED, SamplingParams
from service.engine.served_model import Checkpoint
from service.http.protocols.nestling.schemas import (
    DEFAULT_NEW_TOKENS,
    CheckpointName,
    GenerateRequest,
)


def test_a_prompt_is_enough() -> None:
    request = GenerateRequest.model_validate({"prompt": "a"})
    assert request.max_new_tokens == DEFAULT_NEW_TOKENS
    assert (request.stop, request.stream, request.seed) == ([], False, None)
    sampling = request.ask().sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (1.0, 0, 1.0)


def test_sampling_is_what_was_asked_for() -> None:
    request = GenerateRequest.model_validate(
        {"prompt": "a", "temperature": 0.5, "top_k": 7, "top_p": 0.25, "seed": 9}
    )
    assert request.ask().sampling == SamplingParams(temperature=0.5, top_k=7, top_p=0.25)
    assert request.ask().seed == 9


def test_a_whole_number_is_a_temperature_too() -> None:
    assert GenerateRequest.model_validate({"prompt": "a", "temperature": 0}).temperature == 0.0


@pytest.mark.parametrize(
    ("stop", "expected"), [("x", ["x"]), (["x", "yz"], ["x", "yz"]), ([], [])], ids=str
)
def test_one_stop_string_may_stand_alone(stop: object, expected: list[str]) -> None:
    assert GenerateRequest.model_validate({"prompt": "a", "stop": stop}).stop == expected


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0.0, "top_p": 1e-9, "seed": MAX_SEED},
        {"temperature": 100.0, "top_k": 10**12},
        {"top_p": 1.0, "seed": 0},
    ],
    ids=str,
)
def test_whatever_the_schema_lets_in_is_sampling_that_makes_sense(values: dict[str, float]) -> None:
    request = GenerateRequest.model_validate({"prompt": "a", **values})
    assert request.ask().sampling.temperature == values.get("temperature", 1.0)


def test_a_request_does_not_change() -> None:
    request = GenerateRequest.model_validate({"prompt": "a"})
    with pytest.raises(ValidationError, match="frozen"):
        request.prompt = "b"  # type: ignore[misc]


def test_the_page_of_the_api_says_the_ranges() -> None:
    schema = GenerateRequest.model_json_schema()
    fields = schema["properties"]
    assert (fields["temperature"]["minimum"], fields["temperature"]["maximum"]) == (0, 100)
    assert fields["max_new_tokens"]["minimum"] == 0
    assert {option["type"] for option in fields["stop"]["anyOf"]} == {"array", "string"}
    assert schema["additionalProperties"] is False
    assert all("description" in field for field in fields.values())
    json.dumps(schema)


def test_a_checkpoint_is_named_for_clients() -> None:
    checkpoint = Checkpoint(run="tiny", step=500, fingerprint="f" * 64, created_at=1.0)
    assert CheckpointName.of(checkpoint).model_dump() == {
        "name": "tiny@500",
        "run": "tiny",
        "step": 500,
        "fingerprint": "f" * 64,
    }
