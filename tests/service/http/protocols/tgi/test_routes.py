"""TGI's shape on its routes and on ours, as Hugging Face's clients send and read it."""

import json
from typing import Any

import httpx
import pytest
from toys import toy_tokenizer

PROMPT = "To be, or not"


def ask(client: httpx.Client, route: str, **parameters: Any) -> Any:
    response = client.post(route, json={"inputs": PROMPT, "parameters": parameters})
    assert response.status_code == 200, response.text
    return response.json()


def stream(client: httpx.Client, route: str, **parameters: Any) -> list[dict[str, Any]]:
    body: dict[str, Any] = {"inputs": PROMPT, "parameters": parameters}
    response = client.post(route, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    *frames, rest = response.text.split("\n\n")
    assert rest == ""
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def own(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.post("/generate", json={"prompt": PROMPT, **body}).json()
    return answer


def test_the_root_answers_with_a_list_and_generate_without(client: httpx.Client) -> None:
    expected = own(client, temperature=0, max_new_tokens=6)["text"]
    assert ask(client, "/", max_new_tokens=6) == [{"generated_text": expected}]
    assert ask(client, "/generate", max_new_tokens=6) == {"generated_text": expected}
    full = ask(client, "/generate", max_new_tokens=6, return_full_text=True)
    assert full == {"generated_text": PROMPT + expected}


def test_it_samples_where_a_parameter_says_so(client: httpx.Client) -> None:
    for asked, same in (
        ({"do_sample": True, "seed": 5}, {"seed": 5}),
        ({"temperature": 0.7, "seed": 5}, {"temperature": 0.7, "seed": 5}),
        ({"top_k": 9, "top_p": 0.8, "seed": 5}, {"top_k": 9, "top_p": 0.8, "seed": 5}),
        ({"repetition_penalty": 1.5}, {"temperature": 0, "repetition_penalty": 1.5}),
    ):
        expected = own(client, max_new_tokens=8, **same)["text"]  # type: ignore[arg-type]
        assert ask(client, "/generate", max_new_tokens=8, **asked)["generated_text"] == expected  # type: ignore[arg-type]


def test_details_say_every_token(client: httpx.Client) -> None:
    answer = ask(
        client, "/generate", max_new_tokens=4, details=True, decoder_input_details=True,
        top_n_tokens=2, seed=3, do_sample=True,
    )  # fmt: skip
    details = answer["details"]
    assert (details["finish_reason"], details["generated_tokens"], details["seed"]) == (
        "length", 4, 3,
    )  # fmt: skip
    ids = toy_tokenizer().encode(PROMPT)
    assert [token["id"] for token in details["prefill"]] == ids
    assert details["prefill"][0]["logprob"] is None
    assert all(token["logprob"] < 0 for token in details["prefill"][1:] + details["tokens"])
    assert toy_tokenizer().decode([t["id"] for t in details["tokens"]]) == answer["generated_text"]
    assert [len(top) for top in details["top_tokens"]] == [2] * 4


@pytest.mark.parametrize("route", ["/", "/generate", "/generate_stream"])
def test_a_stream_ends_with_the_whole_text_and_no_marker(client: httpx.Client, route: str) -> None:
    whole = ask(client, "/generate", max_new_tokens=7, seed=3, do_sample=True)
    events = stream(client, route, max_new_tokens=7, seed=3, do_sample=True)
    assert [event["index"] for event in events] == list(range(1, 8))
    assert "".join(event["token"]["text"] for event in events) == whole["generated_text"]
    assert all(event["generated_text"] is None for event in events[:-1])
    assert events[-1]["generated_text"] == whole["generated_text"]
    num_prompt_tokens = len(toy_tokenizer().encode(PROMPT))
    assert events[-1]["details"] == {
        "finish_reason": "length",
        "generated_tokens": 7,
        "seed": 3,
        "input_length": num_prompt_tokens,
    }
    assert all(event["token"].keys() == {"id", "text", "logprob", "special"} for event in events)


def test_a_stop_sequence_is_part_of_the_text_as_with_tgi(client: httpx.Client) -> None:
    text = own(client, max_new_tokens=60, seed=3)["text"]
    stop = text[12:15]
    expected = text[: text.index(stop) + len(stop)]
    answer = ask(
        client, "/generate", max_new_tokens=60, seed=3, do_sample=True, stop=[stop], details=True
    )
    assert answer["generated_text"] == expected
    assert answer["details"]["finish_reason"] == "stop_sequence"
    events = stream(client, "/", max_new_tokens=60, seed=3, do_sample=True, stop=[stop])
    assert events[-1]["generated_text"] == expected
    assert events[-1]["details"]["finish_reason"] == "stop_sequence"


def test_a_grammar_holds(client: httpx.Client) -> None:
    regex = {"type": "regex", "value": "(no|yes)"}
    assert ask(client, "/generate", grammar=regex)["generated_text"] in ("no", "yes")
    schema = {"type": "json", "value": {"type": "object", "maxProperties": 0}}
    answer = ask(client, "/generate", grammar=schema, details=True)
    assert json.loads(answer["generated_text"]) == {}
    assert answer["details"]["finish_reason"] == "eos_token"


def test_a_models_own_end_is_an_event_of_its_own(client: httpx.Client) -> None:
    schema = {"type": "json", "value": {"type": "object", "maxProperties": 0}}
    events = stream(client, "/", grammar=schema)
    assert events[-1]["details"]["finish_reason"] == "eos_token"
    assert events[-1]["generated_text"] == "".join(event["token"]["text"] for event in events)


@pytest.mark.parametrize("route", ["/", "/generate", "/generate_stream"])
@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"inputs": PROMPT, "parameters": {"typical_p": 0.5}}, 422, "typical_p is not supported"),
        ({"inputs": PROMPT, "parameters": {"best_of": 2}}, 422, "best_of is not supported"),
        ({"inputs": PROMPT, "parameters": {"nonsense": 2}}, 422, "unknown field 'parameters.nonse"),
        ({"inputs": PROMPT, "parameters": {"max_new_tokens": 999}}, 422, "exceed the model's 256"),
        ({"inputs": PROMPT, "parameters": {"temperature": 0}}, 422, "greater than 0"),
        ({"inputs": 5}, 422, "valid string"),
        (
            {"inputs": PROMPT, "parameters": {"grammar": {"type": "json", "value": "x"}}},
            422,
            "suit",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_errors_have_tgis_shape(
    client: httpx.Client, route: str, body: dict[str, Any], status: int, message: str
) -> None:
    response = client.post(route, json=body)
    assert response.status_code == status, response.text
    error = response.json()
    assert error.keys() == {"error", "error_type"}
    assert error["error_type"] == "validation"
    assert message in error["error"]


def test_neutral_values_are_accepted(client: httpx.Client) -> None:
    neutral = {"watermark": False, "best_of": 1, "typical_p": None, "truncate": None, "seed": None}
    assert ask(client, "/", max_new_tokens=2, **neutral)
