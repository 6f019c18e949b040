"""OpenAI's routes, field for field, against our own route and the reference."""

import json
from typing import Any

import httpx
import pytest
from serving import LiveService, generation_request, reference_ids
from toys import toy_decoder, toy_tokenizer

PROMPT = "To be, or not"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "To be?"}]
CHAT_PROMPT = "System: Be brief.\n\nUser: To be?\n\nAssistant:"


def post(client: httpx.Client, route: str, **body: Any) -> dict[str, Any]:
    response = client.post(f"/v1/{route}", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def complete(client: httpx.Client, **body: Any) -> dict[str, Any]:
    return post(client, "completions", **{"prompt": PROMPT, "max_tokens": 8, **body})


def chat(client: httpx.Client, **body: Any) -> dict[str, Any]:
    return post(client, "chat/completions", **{"messages": CHAT, "max_tokens": 8, **body})


def stream(client: httpx.Client, route: str, **body: Any) -> list[dict[str, Any]]:
    """Chunks of a stream, which ends with [DONE]."""
    response = client.post(f"/v1/{route}", json={**body, "stream": True})
    assert response.status_code == 200, response.text
    *frames, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def own(client: httpx.Client, **body: Any) -> str:
    response = client.post("/generate", json={"max_new_tokens": 8, **body})
    assert response.status_code == 200, response.text
    text: str = response.json()["text"]
    return text


def refused(client: httpx.Client, route: str, **body: Any) -> dict[str, Any]:
    base = {"prompt": PROMPT} if route == "completions" else {"messages": CHAT}
    response = client.post(f"/v1/{route}", json={**base, **body})
    assert response.status_code == 400, response.text
    assert response.json().keys() == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "code", "param"}
    assert error["type"] == "invalid_request_error"
    return error


ROUTES = ("completions", "chat/completions")


def test_a_completion_is_what_openai_sends(service: LiveService, client: httpx.Client) -> None:
    answer = complete(client, seed=3)
    checkpoint = service.runtime.model().checkpoint
    choice = {
        "index": 0,
        "text": own(client, prompt=PROMPT, seed=3),
        "logprobs": None,
        "finish_reason": "length",
    }
    num_prompt = len(toy_tokenizer().encode(PROMPT))
    assert answer == {
        "id": answer["id"],
        "object": "text_completion",
        "created": answer["created"],
        "model": "toy@7",
        "system_fingerprint": f"toy@7:{checkpoint.fingerprint}",
        "choices": [choice],
        "usage": {
            "prompt_tokens": num_prompt,
            "completion_tokens": 8,
            "total_tokens": num_prompt + 8,
        },
    }
    assert answer["id"].startswith("cmpl-")


def test_a_chat_is_answered_by_the_template(client: httpx.Client) -> None:
    answer = chat(client, seed=3)
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    (choice,) = answer["choices"]
    assert choice == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": own(client, prompt=CHAT_PROMPT, seed=3),
            "refusal": None,
        },
        "logprobs": None,
        "finish_reason": "length",
    }
    parts = [{"type": "text", "text": "To "}, {"type": "text", "text": "be?"}]
    again = chat(
        client,
        seed=3,
        messages=[
            {"role": "developer", "content": "Be brief.", "name": None},
            {"role": "user", "content": parts},
        ],
    )
    assert again["choices"] == answer["choices"]


def test_without_a_limit_a_chat_may_fill_the_context(client: httpx.Client) -> None:
    body = {"messages": CHAT, "temperature": 0, "ignore_eos": True}
    answer = post(client, "chat/completions", **body)
    assert answer["usage"]["total_tokens"] == 256
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("usage", [None, {"include_usage": True}, {"continuous_usage_stats": True}])
@pytest.mark.parametrize("route", ROUTES)
def test_a_stream_joins_to_the_whole_answer(
    client: httpx.Client, route: str, usage: dict[str, bool] | None
) -> None:
    base: dict[str, Any] = {"prompt": PROMPT} if route == "completions" else {"messages": CHAT}
    body = {**base, "max_tokens": 9, "seed": 5, "n": 3, "stop": ["e"]}
    whole = post(client, route, **body)
    chunks = stream(client, route, **body, stream_options=usage)
    texts, reasons = [""] * 3, [[], [], []]  # type: ignore[var-annotated]
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice["delta"].get("content", "") if "delta" in choice else choice["text"]
            assert reasons[choice["index"]] == [], "nothing after the end"
            texts[choice["index"]] += delta
            if choice["finish_reason"] is not None:
                reasons[choice["index"]].append(choice["finish_reason"])
    said = [c["message"]["content"] if "message" in c else c["text"] for c in whole["choices"]]
    assert texts == said
    assert reasons == [[choice["finish_reason"]] for choice in whole["choices"]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["model"] for chunk in chunks} == {"toy@7"}
    assert len({chunk["system_fingerprint"] for chunk in chunks}) == 1
    expected = "text_completion" if route == "completions" else "chat.completion.chunk"
    assert {chunk["object"] for chunk in chunks} == {expected}
    indices = [choice["index"] for chunk in chunks for choice in chunk["choices"]]
    assert indices != sorted(indices), "choices are interleaved"
    if usage == {"include_usage": True}:
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"] == whole["usage"]
        assert all(chunk["usage"] is None for chunk in chunks[:-1])
    elif usage is None:
        assert all("usage" not in chunk for chunk in chunks)
    else:
        assert all(chunk["usage"]["prompt_tokens"] for chunk in chunks)


def test_a_chat_stream_begins_with_the_role_of_each_choice(client: httpx.Client) -> None:
    chunks = stream(client, "chat/completions", messages=CHAT, n=2, max_tokens=2, seed=1)
    first: dict[int, Any] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            first.setdefault(choice["index"], choice["delta"])
    assert first == {index: {"role": "assistant", "content": ""} for index in (0, 1)}


def test_each_choice_has_the_next_seed_and_repeats_alone(client: httpx.Client) -> None:
    together = complete(client, n=3, seed=7)
    assert together["usage"]["prompt_tokens"] == len(toy_tokenizer().encode(PROMPT))
    assert together["usage"]["completion_tokens"] == 24
    apart = [complete(client, seed=7 + index) for index in range(3)]
    assert [c["text"] for c in together["choices"]] == [a["choices"][0]["text"] for a in apart]
    assert len({choice["text"] for choice in together["choices"]}) == 3


def test_several_prompts_are_answered_in_order(client: httpx.Client) -> None:
    texts = ["To be", "the question"]
    ids = [toy_tokenizer().encode(text) for text in texts]
    expected = [
        complete(client, prompt=text, seed=7 + index)["choices"][0]["text"]
        for text in texts
        for index in range(2)
    ]
    for prompt in (texts, ids):
        answer = complete(client, prompt=prompt, n=2, seed=7)
        assert [choice["text"] for choice in answer["choices"]] == expected
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
        assert answer["usage"]["prompt_tokens"] == sum(map(len, ids))
    one = complete(client, prompt=ids[0], seed=7)
    assert one["choices"][0]["text"] == expected[0]


def test_echo_with_logprobs_and_no_new_tokens_scores_a_prompt(client: httpx.Client) -> None:
    """What lm-eval asks of a server."""
    ids = toy_tokenizer().encode(PROMPT)
    answer = complete(client, prompt=ids, max_tokens=0, echo=True, logprobs=1)
    (choice,) = answer["choices"]
    assert choice["text"] == PROMPT
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == PROMPT
    assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
    assert len(logprobs["token_logprobs"]) == len(ids)
    assert logprobs["text_offset"] == [
        len("".join(logprobs["tokens"][:count])) for count in range(len(ids))
    ]
    for logprob, top in zip(
        logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:], strict=True
    ):
        assert logprob in top.values()
        assert logprob <= max(top.values())
        assert len(top) in (1, 2)
    more = complete(client, prompt=ids, max_tokens=1, echo=True, logprobs=1, temperature=0)
    again = more["choices"][0]["logprobs"]
    assert again["token_logprobs"][:-1] == logprobs["token_logprobs"]
    assert again["token_logprobs"][-1] == max(again["top_logprobs"][-1].values())
    streamed = stream(
        client, "completions", prompt=ids, max_tokens=1, echo=True, logprobs=1, temperature=0
    )
    assert "".join(c["choices"][0]["text"] for c in streamed) == more["choices"][0]["text"]
    parts = [c["choices"][0]["logprobs"] for c in streamed if c["choices"][0]["logprobs"]]
    assert [p for part in parts for p in part["token_logprobs"]] == again["token_logprobs"]
    assert [o for part in parts for o in part["text_offset"]] == again["text_offset"]


def test_the_token_that_ends_a_completion_is_scored(client: httpx.Client) -> None:
    """It is no text, but lm-eval drops the last score as that of the one new token."""
    ids = toy_tokenizer().encode(PROMPT)
    body: dict[str, Any] = {"prompt": ids, "echo": True, "logprobs": 1, "max_tokens": 1}
    body |= {"temperature": 0, "logit_bias": {"0": 100}}
    (choice,) = complete(client, **body)["choices"]
    assert (choice["text"], choice["finish_reason"]) == (PROMPT, "stop")
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == f"{PROMPT}<|endoftext|>"
    assert len(logprobs["token_logprobs"]) == len(ids) + 1
    assert logprobs["top_logprobs"][-1]["<|endoftext|>"] == logprobs["token_logprobs"][-1] < 0
    *_, last = stream(client, "completions", **body)
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["choices"][0]["logprobs"]["tokens"] == ["<|endoftext|>"]


def test_chat_logprobs_have_bytes_and_alternatives(client: httpx.Client) -> None:
    body: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "temperature": 0}
    (choice,) = chat(client, **body)["choices"]
    entries = choice["logprobs"]["content"]
    assert len(entries) == 8
    joined = b"".join(bytes(entry["bytes"]) for entry in entries)
    assert joined.decode(errors="replace") == choice["message"]["content"]
    for entry in entries:
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"]
        assert entry["token"] == entry["top_logprobs"][0]["token"]
        assert len(entry["top_logprobs"]) == 2
    chunks = stream(client, "chat/completions", messages=CHAT, max_tokens=8, **body)
    streamed = [
        entry
        for chunk in chunks
        for c in chunk["choices"]
        for entry in (c["logprobs"] or {"content": []})["content"]
    ]
    assert streamed == entries


def test_json_schemas_and_regexes_hold_on_every_route(client: httpx.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [1, 22]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    formats: list[dict[str, Any]] = [
        {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}},
        {"type": "json_object", "value": schema},
    ]
    for form in formats:
        said = chat(client, response_format=form, max_tokens=40)["choices"][0]
        assert json.loads(said["message"]["content"])["a"] in (1, 22)
        assert said["finish_reason"] == "stop"
        assert json.loads(
            complete(client, response_format=form, max_tokens=40)["choices"][0]["text"]
        )
        own_text = own(client, prompt=PROMPT, response_format=form, max_new_tokens=40)
        assert json.loads(own_text)["a"] in (1, 22)
    assert complete(client, regex="(no|yes)")["choices"][0]["text"] in ("no", "yes")
    plain = complete(client, response_format={"type": "text"}, seed=3)
    assert plain["choices"] == complete(client, seed=3)["choices"]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "neutral",
    [
        {"user": "someone"},
        {"best_of": 1},
        {"tools": []},
        {"tool_choice": "none"},
        {"service_tier": "auto"},
        {"store": False},
        {"metadata": None},
        {"skip_special_tokens": True, "early_stopping": False, "priority": 0, "bad_words": []},
        {"add_generation_prompt": True, "chat_template_kwargs": {}, "return_token_ids": False},
        {"suffix": None, "temperature": None, "stop": None, "logit_bias": None, "seed": None},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "n": 1, "top_p": 1},
    ],
    ids=str,
)
def test_a_known_field_at_its_neutral_value_is_accepted(
    client: httpx.Client, route: str, neutral: dict[str, Any]
) -> None:
    base = {"prompt": PROMPT} if route == "completions" else {"messages": CHAT}
    assert post(client, route, **base, max_tokens=1, **neutral)["choices"]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"temprature": 1}, "temprature", "unknown field 'temprature'"),
        ({"tools": [{"type": "function"}]}, "tools", "tools is not supported here"),
        ({"priority": 5}, "priority", "priority is not supported here"),
        ({"best_of": 2}, "best_of", "best_of is not supported here"),
        ({"verbosity": "low"}, "verbosity", "not supported"),
        ({"temperature": 101}, "temperature", "less than or equal to 100"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"max_tokens": -1}, "max_tokens", "greater than or equal"),
        ({"max_tokens": 9999}, "max_tokens", "exceed the model's 256"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"stop": ["x"] * 17}, "stop", "at most 16"),
        ({"stop": [""]}, "stop.0", "at least 1 character"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x.[key]", "must be a token id"),
        ({"logit_bias": {"300": 1}}, "logit_bias", "300 is no token; ids are below 300"),
        ({"logit_bias": {"3": 101}}, "logit_bias.3", "less than or equal to 100"),
        ({"stop_token_ids": [300]}, "stop_token_ids", "300 is no token"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens", "min_tokens 9 exceed max_tokens 8"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "need stream: true"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "needs json_schema"),
        ({"regex": "(a"}, None, "unclosed group"),
        ({"regex": "a", "response_format": {"type": "json_object"}}, "regex", "not both"),
        ({"regex": "a", "ignore_eos": True}, "ignore_eos", "ends where its structure does"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_400_by_name(
    client: httpx.Client, route: str, body: dict[str, Any], param: str | None, message: str
) -> None:
    error = refused(client, route, **body)
    assert message in error["message"]
    if param is None or "[key]" not in param:
        assert error["param"] == param


@pytest.mark.parametrize("stream_it", [False, True])
@pytest.mark.parametrize("route", ROUTES)
def test_an_unknown_model_is_404_before_any_header(
    client: httpx.Client, route: str, stream_it: bool
) -> None:
    body: dict[str, Any] = {"prompt": PROMPT} if route == "completions" else {"messages": CHAT}
    response = client.post(f"/v1/{route}", json={**body, "model": "nobody@3", "stream": stream_it})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"prompt": []}, "prompt", "a text, token ids, or a list"),
        ({"prompt": [1, "a"]}, "prompt", "a text, token ids, or a list"),
        ({"prompt": [True]}, "prompt", "a text, token ids, or a list"),
        ({"prompt": [[]]}, "prompt", "no tokens"),
        ({"prompt": [300]}, "prompt", "300 is no token; ids are below 300"),
        ({"prompt": [[-1]]}, "prompt.0", "greater than or equal to 0"),
        ({"prompt": "\ud800"}, "prompt.0", "surrogate"),
        ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
        ({"prompt": [5] * 256}, "prompt", "256 tokens"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_prompts_that_make_no_sense(
    client: httpx.Client, body: dict[str, Any], param: str, message: str
) -> None:
    content = json.dumps({"prompt": PROMPT, **body})
    response = client.post(
        "/v1/completions", content=content, headers={"content-type": "application/json"}
    )
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert message in error["message"]
    assert error["param"].startswith(param)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": []}, "at least 1 item"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "'system', 'developer', 'user'"),
        ({"messages": [{"role": "user"}]}, "content is required"),
        ({"messages": [{"role": "user", "content": None}]}, "content is required"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "must be an object"),
        ({"top_logprobs": 2}, "top_logprobs need logprobs"),
        ({"max_tokens": 0}, "greater than or equal to 1"),
    ],
    ids=str,
)
def test_chats_that_make_no_sense(client: httpx.Client, body: dict[str, Any], message: str) -> None:
    assert message in refused(client, "chat/completions", **body)["message"]


def test_both_names_of_a_chats_limit_have_to_say_the_same(client: httpx.Client) -> None:
    assert chat(client, max_tokens=3, max_completion_tokens=3)["usage"]["completion_tokens"] == 3
    error = refused(client, "chat/completions", max_tokens=3, max_completion_tokens=4)
    assert error["param"] == "max_completion_tokens"


@pytest.mark.parametrize("stream", [False, True])
def test_a_structure_that_is_too_much_is_the_callers_fault(
    client: httpx.Client, stream: bool
) -> None:
    """In a line, without what the library was about to do."""
    error = refused(client, "completions", regex="(a{1000}){1000}", stream=stream)
    assert "too complex" in error["message"]
    assert len(error["message"]) < 400
    assert "<state>" not in error["message"]
    nothing = refused(client, "completions", regex=r"[^\s\S]", stream=stream)
    assert "no text has it" in nothing["message"]


def test_a_stop_string_reports_stop_and_may_be_included(client: httpx.Client) -> None:
    text = complete(client, max_tokens=60, seed=3)["choices"][0]["text"]
    stop = text[12:15]
    for name in ("include_stop", "include_stop_str_in_output"):
        (cut,) = complete(client, max_tokens=60, seed=3, stop=stop)["choices"]
        assert (cut["text"], cut["finish_reason"]) == (text[: text.index(stop)], "stop")
        (kept,) = complete(client, max_tokens=60, seed=3, stop=[stop], **{name: True})["choices"]
        assert kept["text"] == text[: text.index(stop) + len(stop)]


def test_every_parameter_of_sampling_reaches_the_engine(client: httpx.Client) -> None:
    asked: dict[str, Any] = {
        "temperature": 0.9,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.01,
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.4,
        "presence_penalty": 0.3,
        "seed": 11,
    }
    ids = tuple(toy_tokenizer().encode(PROMPT))
    request = generation_request(
        "a", ids, max_new_tokens=20, logit_bias=((40, 3.0), (41, -50.0)), **asked
    )
    expected = toy_tokenizer().decode(reference_ids(toy_decoder(7).double(), request))
    asked["logit_bias"] = {"40": 3, "41": -50.0}
    assert complete(client, max_tokens=20, **asked)["choices"][0]["text"] == expected
    assert own(client, prompt=PROMPT, max_new_tokens=20, **asked) == expected
    chunks = stream(client, "completions", prompt=PROMPT, max_tokens=20, **asked)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected


def test_more_answers_than_there_can_ever_be_are_refused_with_both_numbers(
    client: httpx.Client,
) -> None:
    error = refused(client, "completions", n=100, prompt=["a", "b", "c"], max_tokens=1)
    assert "300 answers at once; there can be 260" in error["message"]
    assert error["param"] == "n"


def test_what_can_be_called_and_is_not_to_be_needs_no_other_field_left_out(
    client: httpx.Client,
) -> None:
    body = {
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 1,
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "tool_call_id": "call_1",
    }
    assert client.post("/v1/chat/completions", json=body).status_code == 200


def test_a_role_that_is_none_is_told_all_that_are(client: httpx.Client) -> None:
    body = {"messages": [{"role": "robot", "content": PROMPT}], "max_tokens": 1}
    message = client.post("/v1/chat/completions", json=body).json()["error"]["message"]
    assert all(f"'{role}'" in message for role in ("system", "user", "assistant", "tool"))
