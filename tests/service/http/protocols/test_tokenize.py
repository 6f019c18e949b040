"""Text to token ids and back over HTTP."""

from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import toy_tokenizer


def test_tokens_are_those_that_generating_would_read(client: httpx.Client) -> None:
    answer = client.post("/tokenize", json={"prompt": "To be, or not"}).json()
    ids = toy_tokenizer().encode("To be, or not")
    assert answer == {"tokens": ids, "count": len(ids), "max_model_len": 256}
    assert client.post("/tokenize", json={"prompt": ""}).json()["tokens"] == [0]
    chat = {"messages": [{"role": "user", "content": "To be"}]}
    expected = toy_tokenizer().encode("User: To be\n\nAssistant:")
    assert client.post("/tokenize", json=chat).json()["tokens"] == expected


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_there_and_back_again(client: httpx.Client, text: str) -> None:
    tokens = client.post("/tokenize", json={"prompt": text}).json()["tokens"]
    assert client.post("/detokenize", json={"tokens": tokens}).json() == {"prompt": text}


@pytest.mark.parametrize(
    ("route", "body", "message"),
    [
        ("/tokenize", {}, "either prompt or messages"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "either"),
        ("/tokenize", {"text": "a"}, "unknown field 'text'"),
        ("/detokenize", {"tokens": [300]}, "below 300"),
        ("/detokenize", {"tokens": ["a"]}, "valid integer"),
        ("/detokenize", {"tokens": [-1]}, "greater than or equal to 0"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_422(
    client: httpx.Client, route: str, body: dict[str, Any], message: str
) -> None:
    response = client.post(route, json=body)
    assert response.status_code == 422
    assert message in response.json()["error"]["message"]


def test_an_unknown_model_is_404(client: httpx.Client) -> None:
    for route, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
        assert client.post(route, json={**body, "model": "no@1"}).status_code == 404
