"""Neither an answer nor the log repeats more than 200 characters of what a client sent."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import RawClient, ServiceProcess

MOST = 200
LONG = "zQ" * 6000
DIGITS = "7" * 3000
CHAT = "/v1/chat/completions"
MESSAGE = {"role": "user", "content": "a"}


@pytest.fixture(scope="module", params=["thread", "process"])
def talkative(volume: Path, request: pytest.FixtureRequest) -> Iterator[ServiceProcess]:
    """Says all it has to say."""
    with ServiceProcess(volume, log_level="debug", engine=request.param) as service:
        service.wait_serving("toy@1")
        yield service


def repeated(text: str) -> int:
    """Characters of what was sent that are in a text."""
    return text.count("z") + text.count("Q") + text.count("7") if text else 0


def check(service: ServiceProcess, answer: str, seen: int) -> int:
    """Count in an answer and in what the log got since; how long the log is now."""
    assert max(answer.count("zQ") * 2, longest_run(answer, "7")) <= MOST, answer[:1000]
    log = service.log()
    for line in log[seen:].splitlines():
        assert max(line.count("zQ") * 2, longest_run(line, "7")) <= MOST, line[:1000]
    return len(log)


def longest_run(text: str, character: str) -> int:
    most = length = 0
    for one in text:
        length = length + 1 if one == character else 0
        most = max(most, length)
    return most


PATHS = [
    f"/{LONG}",
    f"/v1/models/{LONG}",
    f"/v1/models/{LONG}/",
    f"/v1/{LONG}",
    f"/runs/{LONG}/history",
    f"/docs/?{LONG}",
    f"/checkpoints/?{LONG}",
    f"/static-offline-docs/{LONG}",
    f"/healthz?{LONG}",
    f"/metrics?{LONG}",
    f"/generate/{LONG}",
    f"/generate?{LONG}",
]
HEADERS = [
    ("host", LONG),
    ("x-request-id", LONG),
    ("authorization", f"Bearer {LONG}"),
    ("authorization", LONG),
    ("accept", LONG),
    ("accept", f"application/openmetrics-text; escaping={LONG}"),
    ("content-type", f"application/{LONG}"),
    ("content-encoding", LONG),
    ("expect", LONG),
    ("origin", f"https://{LONG}"),
    ("upgrade", LONG),
    ("connection", LONG),
    ("x-forwarded-for", LONG),
    ("x-forwarded-host", LONG),
    ("traceparent", LONG),
    ("range", LONG),
    (LONG, "a"),
]
BODIES: list[tuple[str, Any]] = [
    ("/generate", {"prompt": "a", LONG: 1}),
    ("/generate", {"prompt": "a", "model": LONG}),
    ("/generate", {"prompt": "a", "model": f"toy@{DIGITS}"}),
    ("/generate", {"prompt": "a", "max_new_tokens": LONG}),
    ("/generate", {"prompt": "a", "stream": LONG}),
    ("/generate", {"prompt": "a", "stop": [LONG]}),
    ("/generate", {"prompt": "a", "logit_bias": {LONG: 1}}),
    ("/generate", {"prompt": "a", "logit_bias": {"1": LONG}}),
    ("/generate", {"prompt": {LONG: LONG}}),
    ("/generate", {"prompt": "a", "regex": "(" * 900 + "zQ" * 1000}),
    ("/generate", {"prompt": "a", "response_format": {"type": LONG}}),
    ("/generate", {"inputs": "a", "parameters": {LONG: 1}}),
    ("/generate", {"inputs": "a", "parameters": {"grammar": {"type": LONG, "value": LONG}}}),
    (
        "/generate",
        {"inputs": "a", "parameters": {"grammar": {"type": "regex", "value": "(zQ" * 900}}},
    ),
    ("/", {"inputs": "a", LONG: 1}),
    ("/", {"inputs": [LONG]}),
    ("/v1/completions", {"prompt": "a", LONG: LONG}),
    ("/v1/completions", {"prompt": "a", "model": LONG}),
    ("/v1/completions", {"prompt": "a", "suffix": LONG}),
    (CHAT, {"messages": [{"role": LONG, "content": "a"}]}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": LONG}]}]}),
    (CHAT, {"messages": [MESSAGE | {LONG: 1}]}),
    (CHAT, {"messages": [MESSAGE], "tools": [{"type": "function", "function": {"name": LONG}}]}),
    (CHAT, {"messages": [MESSAGE], "tool_choice": LONG}),
    (CHAT, {"messages": [MESSAGE], "functions": [{"name": LONG}]}),
    (CHAT, {"messages": [MESSAGE], "response_format": {"type": LONG}}),
    (
        CHAT,
        {
            "messages": [MESSAGE],
            "response_format": {"type": "json_schema", "json_schema": {"name": LONG, "schema": {}}},
        },
    ),
    (
        CHAT,
        {
            "messages": [MESSAGE],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"type": LONG}},
            },
        },
    ),
    (
        CHAT,
        {
            "messages": [MESSAGE],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"$ref": f"#/{LONG}"}},
            },
        },
    ),
    (CHAT, {"messages": [MESSAGE], "stream_options": {LONG: 1}}),
    ("/tokenize", {"prompt": "a", LONG: 1}),
    ("/detokenize", {"tokens": [LONG]}),
    ("/checkpoints/reload", {"model": LONG}),
]
NUMBERS = [
    ("/generate", '{"prompt": "a", "max_new_tokens": %s}'),
    ("/generate", '{"prompt": "a", "min_tokens": %s}'),
    ("/generate", '{"prompt": "a", "n": %s}'),
    ("/generate", '{"prompt": "a", "seed": %s}'),
    ("/generate", '{"prompt": "a", "temperature": %s}'),
    ("/generate", '{"prompt": "a", "top_k": %s}'),
    ("/generate", '{"prompt": "a", "logit_bias": {"%s": 1}}'),
    ("/v1/completions", '{"prompt": [%s]}'),
    ("/v1/completions", '{"prompt": "a", "logprobs": %s}'),
    ("/v1/completions", '{"prompt": "a", "max_tokens": %s}'),
    ("/", '{"inputs": "a", "parameters": {"max_new_tokens": %s}}'),
    ("/", '{"inputs": "a", "parameters": {"truncate": %s}}'),
    ("/detokenize", '{"tokens": [%s]}'),
    ("/generate", "%s"),
    ("/generate", "[%s"),
]


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE", "OPTIONS"])
def test_a_long_path(talkative: ServiceProcess, method: str) -> None:
    seen = len(talkative.log())
    for path in PATHS:
        client = RawClient(talkative.port)
        client.send(f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        seen = check(talkative, client.read_all().decode("latin-1"), seen)
        assert client.received
        client.close()


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/generate", "/nothing", "/docs"])
def test_a_long_header(talkative: ServiceProcess, path: str) -> None:
    seen = len(talkative.log())
    for name, value in HEADERS:
        client = RawClient(talkative.port)
        host = "" if name == "host" else "host: x\r\n"
        head = f"GET {path} HTTP/1.1\r\n{host}{name}: {value}\r\ncookie: a=b\r\n"
        client.send(f"{head}{'' if name == 'connection' else 'connection: close'}\r\n\r\n".encode())
        if name == "connection":
            client.half_close()
        seen = check(talkative, client.read_all().decode("latin-1"), seen)
        client.close()


def test_a_method_that_is_none(talkative: ServiceProcess) -> None:
    client = RawClient(talkative.port)
    client.send(f"{LONG} / HTTP/1.1\r\n\r\n".encode())
    check(talkative, client.read_all().decode("latin-1"), 0)
    client.close()


@pytest.mark.parametrize("stream", [False, True])
def test_long_values_and_names_of_fields(talkative: ServiceProcess, stream: bool) -> None:
    seen = len(talkative.log())
    for path, body in BODIES:
        answer = talkative.client.post(path, json=body | ({"stream": True} if stream else {}))
        seen = check(talkative, answer.text, seen)


def test_long_numbers_and_what_is_no_json(talkative: ServiceProcess) -> None:
    seen = len(talkative.log())
    headers = {"content-type": "application/json"}
    for path, body in NUMBERS:
        for value in (DIGITS, f"-{DIGITS}", f"0.{DIGITS}", DIGITS[:300], f'"{LONG}', LONG):
            answer = talkative.client.post(path, content=body % value, headers=headers)
            seen = check(talkative, answer.text, seen)


def test_the_measure_sees_what_is_repeated(talkative: ServiceProcess) -> None:
    with pytest.raises(AssertionError):
        check(talkative, json.dumps({"error": LONG}), len(talkative.log()))
