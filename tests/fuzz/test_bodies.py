"""Bodies of every kind to every route that takes one: refused in words, never an error of ours."""

import json
from typing import Any

import pytest
from fuzzing import unharmed
from hypothesis import given
from hypothesis import strategies as st
from serving import ServiceProcess
from toys.properties import examples

VALID = {"prompt": "ab", "max_new_tokens": 2, "temperature": 0.5, "stop": ["x"], "stream": False}
KINDS = (
    "application/json",
    "application/json; charset=utf-16",
    "application/problem+json",
    "text/plain",
    "multipart/form-data; boundary=x",
    "application/x-www-form-urlencoded",
    "",
    "nonsense",
)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("a" * 3000)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)
changed = st.builds(
    lambda key, value: json.dumps({**VALID, key: value}).encode(),
    st.sampled_from([*VALID, "seed", "top_k", "top_p", "model", "prompts"]),
    values,
)
anything = st.builds(lambda value: json.dumps(value).encode(), values)
marks = st.sampled_from([b"[", b'{"a":'])
deep = st.builds(lambda count, mark: mark * count, st.integers(1, 9000), marks)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good body with some bytes exchanged, left out or repeated."""
    body = bytearray(json.dumps(VALID).encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body) - 1))
        end = at + draw(st.integers(0, 6))
        body[at:end] = draw(st.binary(max_size=6))
        body = body or bytearray(b" ")
    return bytes(body)


bodies = changed | anything | deep | damaged() | st.binary(max_size=200)


@pytest.mark.parametrize("count", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_body_is_an_error_of_ours(service: ServiceProcess, count: int) -> None:
    schema = service.client.get("/openapi.json").json()
    paths = [path for path, methods in schema["paths"].items() if "post" in methods]
    seen: set[int] = set()

    @examples(count)
    @given(st.sampled_from(paths), bodies, st.sampled_from(KINDS))
    def send(path: str, body: bytes, kind: str) -> None:
        headers: dict[str, Any] = {"content-type": kind} if kind else {}
        response = service.client.post(path, content=body, headers=headers)
        seen.add(response.status_code)
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert "error" in response.json()

    with unharmed(service):
        send()
    assert {400, 422} <= seen
