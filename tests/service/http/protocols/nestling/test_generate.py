"""``POST /generate`` against the reference generator, whole and streamed."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from serving import (
    Exposition,
    LiveService,
    generation_request,
    reference_ids,
    stream_generate,
    wait_until,
)
from toys import toy_decoder, toy_tokenizer

PROMPT = "To be, or not"


def reference_text(prompt: str, max_new_tokens: int, **sampling: Any) -> str:
    request = generation_request(
        "a", tuple(toy_tokenizer().encode(prompt)), max_new_tokens=max_new_tokens, **sampling
    )
    return toy_tokenizer().decode(reference_ids(toy_decoder(7).double(), request))


def generate(client: httpx.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/generate", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, "seed": 5},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "seed": 123456789},
    {"temperature": 1.5, "top_p": 0.5, "seed": 2**63 - 1},
]


@pytest.mark.parametrize("sampling", SAMPLING, ids=str)
def test_the_whole_answer_is_the_references(client: httpx.Client, sampling: dict[str, Any]) -> None:
    answer = generate(client, prompt=PROMPT, max_new_tokens=20, **sampling)
    assert answer["text"] == reference_text(PROMPT, 20, **sampling)


@pytest.mark.parametrize("sampling", SAMPLING, ids=str)
def test_the_streamed_texts_joined_are_the_whole_answer(
    client: httpx.Client, sampling: dict[str, Any]
) -> None:
    whole = generate(client, prompt=PROMPT, max_new_tokens=20, **sampling)
    stream = stream_generate(client, prompt=PROMPT, max_new_tokens=20, **sampling)
    assert stream.is_done
    assert stream.text == whole["text"]
    assert toy_tokenizer().decode(stream.token_ids) == whole["text"]
    final = {name: value for name, value in stream.final.items() if name != "timings"}
    assert final.keys() | {"timings"} == whole.keys()
    for name in ("finish_reason", "usage", "checkpoint"):
        assert final[name] == whole[name]
    assert len(stream.token_ids) == final["usage"]["completion_tokens"]


def test_an_answer_says_what_it_took_and_who_gave_it(
    service: LiveService, client: httpx.Client
) -> None:
    response = client.post(
        "/generate", json={"prompt": PROMPT, "max_new_tokens": 5, "temperature": 0}
    )
    answer = response.json()
    num_prompt_tokens = len(toy_tokenizer().encode(PROMPT))
    assert answer["usage"] == {"prompt_tokens": num_prompt_tokens, "completion_tokens": 5}
    assert answer["finish_reason"] == "length"
    served = service.runtime.model().checkpoint
    assert answer["checkpoint"] == {
        "name": "toy@7",
        "run": "toy",
        "step": 7,
        "fingerprint": served.fingerprint,
    }
    provenance = f"toy@7;fingerprint={served.fingerprint}"
    assert response.headers["x-nestling-checkpoint"] == provenance
    assert len(response.headers["x-request-id"]) == 32
    timings = answer["timings"]
    assert 0 <= timings["queue_s"] <= timings["ttft_s"] <= timings["total_s"] < 30


def test_a_stream_has_the_headers_that_proxies_need(client: httpx.Client) -> None:
    stream = stream_generate(client, prompt=PROMPT, max_new_tokens=3, temperature=0)
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert stream.headers["cache-control"] == "no-cache"
    assert stream.headers["x-accel-buffering"] == "no"
    fingerprint = stream.final["checkpoint"]["fingerprint"]
    assert stream.headers["x-nestling-checkpoint"] == f"toy@7;fingerprint={fingerprint}"
    assert len(stream.headers["x-request-id"]) == 32
    assert all(event.keys() == {"token_id", "text"} for event in stream.events[:-1])


def test_without_a_seed_answers_differ_and_their_seed_repeats_them(client: httpx.Client) -> None:
    answers = [generate(client, prompt=PROMPT, max_new_tokens=12) for _ in range(3)]
    assert len({answer["seed"] for answer in answers}) == 3
    assert len({answer["text"] for answer in answers}) > 1
    again = generate(client, prompt=PROMPT, max_new_tokens=12, seed=answers[0]["seed"])
    assert again["text"] == answers[0]["text"]


def test_a_stop_string_ends_the_answer_before_it(client: httpx.Client) -> None:
    text = reference_text(PROMPT, 60, temperature=1.0, seed=3)
    stop = text[12:15]
    body = {"prompt": PROMPT, "max_new_tokens": 60, "seed": 3}
    for given in (stop, [stop], ["not in it", stop]):
        answer = generate(client, **body, stop=given)
        assert answer["text"] == text[: text.index(stop)]
        assert answer["finish_reason"] == "stop"
    stream = stream_generate(client, **body, stop=stop)
    assert stream.text == text[: text.index(stop)]
    assert stream.final["finish_reason"] == "stop"


def test_an_empty_prompt_begins_a_text(client: httpx.Client) -> None:
    answer = generate(client, prompt="", max_new_tokens=4, temperature=0)
    request = generation_request("a", (0,), max_new_tokens=4)
    expected = reference_ids(toy_decoder(7).double(), request)
    assert answer["text"] == toy_tokenizer().decode(expected)
    assert answer["usage"]["prompt_tokens"] == 1


def test_prompt_and_output_may_fill_the_context_exactly(client: httpx.Client) -> None:
    num_prompt_tokens = len(toy_tokenizer().encode(PROMPT))
    limit = 256 - num_prompt_tokens
    answer = generate(client, prompt=PROMPT, max_new_tokens=limit, temperature=0)
    assert answer["text"] == reference_text(PROMPT, limit)


def test_a_long_prompt_is_tokenized_beside_the_others(client: httpx.Client) -> None:
    """Over the limit of inline work, and far over the model's: refused all the same."""
    prompt = toy_tokenizer().decode(toy_tokenizer().encode("to be " * 600))
    response = client.post("/generate", json={"prompt": prompt, "max_new_tokens": 1})
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_many_clients_at_once_each_get_their_own_answer(client: httpx.Client) -> None:
    """More than there are slots, of all lengths, sampled with their own seeds."""
    bodies: list[dict[str, Any]] = [
        {
            "prompt": PROMPT[: 1 + number % 13],
            "max_new_tokens": 3 + number,
            "seed": number,
            "temperature": 0.0 if number % 3 == 0 else 0.9,
        }
        for number in range(14)
    ]
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda body: stream_generate(client, **body).text, bodies))
    for body, answer in zip(bodies, answers, strict=True):
        assert answer == reference_text(**body)


COUNTS = (
    "time_to_first_token_seconds_count",
    "inter_token_latency_seconds_count",
    "e2e_request_latency_seconds_count",
    "request_queue_time_seconds_count",
    "request_prefill_time_seconds_count",
    "request_decode_time_seconds_count",
    "request_prompt_tokens_count",
    "request_generation_tokens_count",
    "prompt_tokens_total",
    "generation_tokens_total",
)


def test_the_metrics_of_n_requests_of_m_tokens(service: LiveService, client: httpx.Client) -> None:
    wait_until(lambda: service.is_quiet, "earlier tests' requests end")
    before = service.metrics()
    requests, tokens = 6, 9

    def run(number: int) -> None:
        if number % 2:
            stream_generate(client, prompt=PROMPT, max_new_tokens=tokens, temperature=0)
        else:
            generate(client, prompt=PROMPT, max_new_tokens=tokens, temperature=0)

    with ThreadPoolExecutor(requests) as pool:
        list(pool.map(run, range(requests)))
    wait_until(lambda: service.is_quiet, "everything is given back")
    after = service.metrics()

    def grown(exposition: Exposition) -> dict[str, float]:
        return {name: exposition.value(name) - before.value(name) for name in COUNTS}

    num_prompt_tokens = len(toy_tokenizer().encode(PROMPT))
    expected: dict[str, float] = dict.fromkeys(COUNTS, requests)
    expected["inter_token_latency_seconds_count"] = requests * (tokens - 1)
    expected["generation_tokens_total"] = requests * tokens
    expected["prompt_tokens_total"] = requests * num_prompt_tokens
    assert grown(after) == expected
    assert after.total("requests_total") - before.total("requests_total") == requests
    assert after.value("kv_cache_usage_ratio") == 0
    assert (
        after.value("request_generation_tokens_sum") - before.value("request_generation_tokens_sum")
        == requests * tokens
    )
    assert after.value("batch_size_count") > before.value("batch_size_count")


def test_several_answers_have_the_next_seeds_and_an_index(client: httpx.Client) -> None:
    body: dict[str, Any] = {"prompt": PROMPT, "max_new_tokens": 7, "seed": 4}
    alone = [generate(client, **{**body, "seed": 4 + index}) for index in range(3)]
    whole = generate(client, **body, n=3)
    assert whole.keys() == {"choices"}
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert [choice["text"] for choice in whole["choices"]] == [one["text"] for one in alone]
    assert [choice["seed"] for choice in whole["choices"]] == [4, 5, 6]
    stream = stream_generate(client, **body, n=3)
    assert stream.is_done
    texts = ["", "", ""]
    for event in stream.events:
        texts[event["index"]] += event["text"]
    assert texts == [one["text"] for one in alone]
    ends = [event for event in stream.events if "finish_reason" in event]
    assert sorted(event["index"] for event in ends) == [0, 1, 2]


def test_answer_and_prompt_can_be_scored(client: httpx.Client) -> None:
    body: dict[str, Any] = {"prompt": PROMPT, "temperature": 0, "logprobs": 2}
    answer = generate(client, **body, prompt_logprobs=1, max_new_tokens=5)
    ids = toy_tokenizer().encode(PROMPT)
    assert [one["token_id"] for one in answer["prompt_logprobs"]] == ids[1:]
    assert all(len(one["top"]) == 1 for one in answer["prompt_logprobs"])
    assert len(answer["logprobs"]) == 5
    for one in answer["logprobs"]:
        assert one["logprob"] == one["top"][0]["logprob"] > one["top"][1]["logprob"]
        assert one["token_id"] == one["top"][0]["token_id"]
    stream = stream_generate(client, **body, prompt_logprobs=1, max_new_tokens=5)
    assert stream.events[0] == {"prompt_logprobs": answer["prompt_logprobs"]}
    tokens = [event for event in stream.events if "token_id" in event]
    assert [event["logprob"] for event in tokens] == [o["logprob"] for o in answer["logprobs"]]
    assert stream.text == answer["text"]
    nothing = generate(client, **body, prompt_logprobs=1, max_tokens=0)
    assert (nothing["text"], nothing["finish_reason"]) == ("", "length")
    assert nothing["prompt_logprobs"] == answer["prompt_logprobs"]
