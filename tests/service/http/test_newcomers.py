"""What clients of other services send and ask first: taken, or refused in words that help."""

from typing import Any

import httpx
import pytest
from toys import toy_tokenizer

from lm.text.chat import chat_prompt
from lm.text.tokenizer import Tokenizer
from service.http.protocols.openai.schemas import Message

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def ask(client: httpx.Client, messages: list[dict[str, Any]], **body: Any) -> httpx.Response:
    asked = {"messages": messages, "max_tokens": 2, "temperature": 0, **body}
    return client.post("/v1/chat/completions", json=asked)


HELLO = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Hi", "name": "Ann"}],
        [*HELLO, {"role": "assistant", "content": None, "tool_calls": [CALL]}],
        [
            *HELLO,
            {"role": "assistant", "tool_calls": [CALL], "content": ""},
            {"role": "tool", "content": "42", "tool_call_id": "c1"},
        ],
    ],
    ids=["name", "null content", "tool role"],
)
def test_histories_of_other_services_are_taken(
    client: httpx.Client, messages: list[dict[str, Any]]
) -> None:
    assert ask(client, messages).status_code == 200
    assert client.post("/tokenize", json={"messages": messages}).status_code == 200


def test_null_content_without_a_call_is_refused(client: httpx.Client) -> None:
    refused = ask(client, [{"role": "user", "content": None}])
    assert refused.status_code == 400
    assert "content is required" in refused.json()["error"]["message"]


def test_a_template_sees_names_and_calls_with_their_arguments_as_data() -> None:
    template = (
        "{% for m in messages %}{{ m.name }}|{{ m.content }}|{{ m.tool_call_id }}|"
        "{% for c in m.tool_calls %}{{ c.function.arguments.a }}{% endfor %};{% endfor %}"
    )
    tokenizer = Tokenizer(
        toy_tokenizer().backend, bos_token_id=0, eos_token_ids=[0], chat_template=template
    )
    said = [
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": [{"type": "text", "text": "42"}], "tool_call_id": "c1"},
    ]
    messages = [Message.model_validate(one).for_template() for one in said]
    assert chat_prompt(tokenizer, messages) == "Ann|Hi||;|||1;|42|c1|;"


@pytest.mark.parametrize(
    "labels",
    [
        {"metadata": {"a": "b"}},
        {"store": True},
        {"user": "me"},
        {"prompt_cache_key": "k"},
        {"service_tier": "flex"},
        {"safety_identifier": "s"},
        {"reasoning_effort": "low"},
        {"tools": TOOLS, "tool_choice": "none"},
        {"seed": -1},
        {"max_completion_tokens": 2},
    ],
    ids=str,
)
def test_labels_without_effect_are_taken(client: httpx.Client, labels: dict[str, Any]) -> None:
    plain = ask(client, HELLO).json()["choices"]
    made = ask(client, HELLO, **labels)
    assert made.status_code == 200
    assert made.json()["choices"] == plain


def test_top_p_of_0_takes_the_likeliest(client: httpx.Client) -> None:
    greedy = ask(client, HELLO, max_tokens=8).json()["choices"][0]["message"]
    drawn = ask(client, HELLO, max_tokens=8, temperature=2.0, top_p=0)
    assert drawn.json()["choices"][0]["message"] == greedy


def test_a_schema_may_stand_beside_json_object(client: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [7]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    form = {"type": "json_object", "schema": schema}
    made = ask(client, HELLO, max_tokens=40, response_format=form).json()
    assert made["choices"][0]["message"]["content"] == '{"a": 7}'
    refused = ask(client, HELLO, response_format={"type": "text", "schema": schema})
    assert "schema belongs to type 'json_object' alone" in refused.text


@pytest.mark.parametrize("path", ["/healthz", "/health", "/readyz", "/version", "/metrics"])
def test_head_says_what_get_does_without_a_body(client: httpx.Client, path: str) -> None:
    made = client.head(path)
    assert made.status_code == client.get(path).status_code == 200
    assert made.content == b""


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("POST", "/chat/completions", "did you mean /v1/chat/completions?"),
        ("POST", "/completions", "did you mean /v1/completions?"),
        ("GET", "/models", "did you mean /v1/models?"),
        ("POST", "/v1/v1/chat/completions", "did you mean /v1/chat/completions?"),
        ("POST", "/v1/generate", "did you mean /generate?"),
        ("POST", "/v1/chat/completion", "did you mean /v1/chat/completions?"),
        ("POST", "/v1/embeddings", "embeddings are not served"),
        ("POST", "/embeddings", "embeddings are not served"),
        ("POST", "/v1/audio/speech", "audio is not served"),
        ("GET", "/nothing/like/it", "no GET /nothing/like/it; GET /docs lists all"),
        ("GET", "/generate", "GET does nothing at /generate; it takes POST"),
    ],
)
def test_a_path_that_is_not_there_names_what_is(
    client: httpx.Client, method: str, path: str, message: str
) -> None:
    made = client.request(method, path, json={} if method == "POST" else None)
    assert made.status_code == (405 if message.endswith("POST") else 404)
    assert message in made.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/generate", {"prompt": "a", "temprature": 1}, "'temprature'; did you mean temperature?"),
        ("/v1/completions", {"prompt": "a", "max_token": 1}, "did you mean max_tokens?"),
        (
            "/v1/chat/completions",
            {"messages": HELLO, "max_complet_tokens": 1},
            "did you mean max_completion_tokens?",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a", "nam": "b"}]},
            "did you mean name?",
        ),
        ("/generate", {"inputs": "a", "parameters": {"do_sampl": True}}, "did you mean do_sample?"),
        ("/generate", {"prompt": "a", "zzz": 1}, "unknown field 'zzz'"),
        (
            "/generate",
            {"prompt": "a", "stop": ["x"] * 20},
            "stop: must have at most 16 items, not 20",
        ),
        ("/generate", {"prompt": "a", "seed": 2**63}, "seed: must be less than or equal to"),
        ("/generate", {}, "prompt: is required"),
        ("/v1/completions", {"prompt": "a", "n": 500}, "n: must be less than or equal to 128"),
        (
            "/v1/chat/completions",
            {"messages": HELLO, "max_completion_tokens": 5000},
            "max_completion_tokens 5000 exceed",
        ),
        (
            "/v1/chat/completions",
            {"messages": HELLO, "tools": TOOLS},
            "tools is not supported here; hold the answer to a schema with response_format",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_refusal_says_what_was_meant_in_the_protocols_words(
    client: httpx.Client, path: str, body: dict[str, Any], message: str
) -> None:
    made = client.post(path, json=body)
    assert made.status_code in (400, 422)
    said = made.json()["error"]
    said = said if isinstance(said, str) else said["message"]
    assert message in said
    assert "Input should" not in said
