"""LangChain, a library for server-sent events, and curl."""

import json
import subprocess

import httpx
import pytest
from httpx_sse import connect_sse
from langchain_openai import ChatOpenAI
from machine_tools import require_tool
from serving import LiveService

BODY = {"prompt": "User: To be?\n\nAssistant:", "max_new_tokens": 8, "seed": 3}


@pytest.fixture
def expected(service: LiveService) -> str:
    text: str = service.client.post("/generate", json=BODY).json()["text"]
    return text


def test_langchain(address: str, expected: str) -> None:
    model = ChatOpenAI(
        base_url=f"{address}/v1",
        api_key="none",  # type: ignore[arg-type]
        model="latest",
        seed=3,
        max_completion_tokens=8,
    )
    answer = model.invoke("To be?")
    assert answer.content == expected
    assert answer.response_metadata["model_name"] == "toy@7"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 8
    assert "".join(str(chunk.content) for chunk in model.stream("To be?")) == expected


@pytest.mark.parametrize("route", ["/generate", "/v1/completions"])
def test_an_sse_library(address: str, expected: str, route: str) -> None:
    body = {"stream": True, "prompt": BODY["prompt"], "max_tokens": 8, "seed": 3}
    with (
        httpx.Client() as client,
        connect_sse(client, "POST", address + route, json=body) as source,
    ):
        *events, done = source.iter_sse()
    assert done.data == "[DONE]"
    said = [json.loads(event.data) for event in events]
    texts = [one["choices"][0]["text"] if "choices" in one else one["text"] for one in said]
    assert "".join(texts) == expected


def test_curl(address: str, expected: str) -> None:
    curl = require_tool("curl", package="curl")
    body = json.dumps({**BODY, "stream": True})
    done = subprocess.run(
        [curl, "-sSN", f"{address}/generate", "--json", body],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    *frames, last, rest = done.stdout.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    said = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert "".join(one["text"] for one in said) == expected
