"""Every way to be refused: its status, and the one shape, on every route."""

import json
import logging
from collections import Counter
from typing import Any

import httpx
import pytest
from serving import LiveService, RawClient

from service import errors
from service.http.errors import STATUS


def check_shape(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "code", "param"}
    for key in ("message", "type", "code"):
        assert isinstance(body["error"][key], str)
        assert body["error"][key]
    assert body["error"]["param"] is None or isinstance(body["error"]["param"], str)
    error: dict[str, Any] = body["error"]
    return error


FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"temprature": 1}, "temprature", "unknown field 'temprature'"),
    ({"prompt": 5}, "prompt", "valid string"),
    ({"prompt": None}, "prompt", "valid string"),
    ({"prompt": ["a"]}, "prompt", "valid string"),
    ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
    ({"temperature": float("nan")}, "temperature", "finite number"),
    ({"temperature": float("inf")}, "temperature", "finite number"),
    ({"temperature": 1e9}, "temperature", "less than or equal to 100"),
    ({"temperature": "hot"}, "temperature", "valid number"),
    ({"temperature": "0.5"}, "temperature", "valid number"),
    ({"temperature": True}, "temperature", "valid number"),
    ({"top_k": -2}, "top_k", "greater than or equal to -1"),
    ({"top_k": 1.5}, "top_k", "valid integer"),
    ({"top_p": -0.1}, "top_p", "greater than or equal to 0"),
    ({"top_p": 1.01}, "top_p", "less than or equal to 1"),
    ({"top_p": float("nan")}, "top_p", ""),
    ({"seed": -2}, "seed", "greater than or equal to 0"),
    ({"seed": 2**63}, "seed", "less than or equal to"),
    ({"seed": 1.0}, "seed", "valid integer"),
    ({"max_new_tokens": -5}, "max_new_tokens", "greater than or equal to 0"),
    ({"max_new_tokens": 1.5}, "max_new_tokens", "valid integer"),
    ({"max_new_tokens": True}, "max_new_tokens", "valid integer"),
    ({"max_new_tokens": None}, "max_new_tokens", "valid integer"),
    ({"stop": ""}, "stop.0", "at least 1 character"),
    ({"stop": ["a", ""]}, "stop.1", "at least 1 character"),
    ({"stop": ["x" * 257]}, "stop.0", "at most 256 characters"),
    ({"stop": ["x"] * 17}, "stop", "at most 16 items"),
    ({"stop": 5}, "stop", "valid list"),
    ({"stream": "yes"}, "stream", "valid boolean"),
    ({"stream": 1}, "stream", "valid boolean"),
]


@pytest.mark.parametrize(
    ("change", "param", "message"), FIELDS, ids=[json.dumps(change)[:40] for change, _, _ in FIELDS]
)
def test_a_field_that_makes_no_sense_is_422_and_named(
    client: httpx.Client, change: dict[str, Any], param: str, message: str
) -> None:
    content = json.dumps({"prompt": "a", **change})
    response = client.post(
        "/generate", content=content, headers={"content-type": "application/json"}
    )
    assert response.status_code == 422
    error = check_shape(response)
    assert error["param"] == param
    assert message in error["message"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")


@pytest.mark.parametrize(
    "content",
    [b"{", b"not json", b'{"prompt": "a",}', b'{"prompt": "a"', b"\xff\xfe{}", b"[" * 3000],
    ids=["open", "words", "comma", "cut", "not utf-8", "deep"],
)
def test_a_body_that_is_not_json_is_400(client: httpx.Client, content: bytes) -> None:
    response = client.post(
        "/generate", content=content, headers={"content-type": "application/json"}
    )
    assert response.status_code == 400
    check_shape(response)


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b'"text"', b"5", b"{}"],
    ids=lambda body: body.decode() or "none",
)
def test_a_body_that_is_no_request_is_422(client: httpx.Client, content: bytes) -> None:
    response = client.post(
        "/generate", content=content, headers={"content-type": "application/json"}
    )
    assert response.status_code == 422
    check_shape(response)


def test_a_form_instead_of_json_is_422(client: httpx.Client) -> None:
    response = client.post("/generate", data={"prompt": "a"})
    assert response.status_code == 422
    assert "content-type: application/json" in check_shape(response)["message"]


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (b'{"prompt": "\\ud800"}', "prompt"),
        (b'{"prompt": "a", "stop": ["\\udc00"]}', "stop.0"),
        (b'{"prompt": "a", "\\ud800": 1}', None),
    ],
    ids=["prompt", "stop", "name"],
)
def test_half_a_surrogate_pair_is_no_text(
    client: httpx.Client, content: bytes, param: str | None
) -> None:
    headers = {"content-type": "application/json"}
    response = client.post("/generate", content=content, headers=headers)
    assert response.status_code == 422
    assert check_shape(response)["param"] == param


@pytest.mark.parametrize(
    ("body", "param", "numbers"),
    [
        ({"prompt": "é" * 400, "max_new_tokens": 1}, "prompt", ("800", "255")),
        ({"prompt": "é", "max_new_tokens": 255}, "max_new_tokens", ("2 prompt", "255", "256")),
        ({"prompt": "é", "max_new_tokens": 10**30}, "max_new_tokens", ("2 prompt", "256")),
    ],
    ids=["prompt", "output", "huge"],
)
def test_what_does_not_fit_the_model_is_422_with_both_numbers(
    client: httpx.Client, body: dict[str, Any], param: str, numbers: tuple[str, ...]
) -> None:
    response = client.post("/generate", json=body)
    assert response.status_code == 422
    error = check_shape(response)
    assert (error["param"], error["code"]) == (param, "context_length_exceeded")
    for number in numbers:
        assert number in error["message"]


ROUTES = {
    "/generate": {"POST"},
    "/generate_stream": {"POST"},
    "/v1/completions": {"POST"},
    "/v1/chat/completions": {"POST"},
    "/v1/models": {"GET"},
    "/tokenize": {"POST"},
    "/detokenize": {"POST"},
    "/checkpoints": {"GET"},
    "/healthz": {"GET"},
    "/readyz": {"GET"},
    "/health": {"GET"},
    "/info": {"GET"},
    "/metrics": {"GET"},
    "/version": {"GET"},
    "/": {"GET", "POST"},
    "/docs": {"GET"},
    "/openapi.json": {"GET"},
}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ROUTES)
def test_another_method_is_405_on_every_route(client: httpx.Client, path: str, method: str) -> None:
    if method in ROUTES[path]:
        assert client.request(method, path).status_code in (200, 400, 422)
        return
    response = client.request(method, path)
    assert response.status_code == 405
    assert check_shape(response)["code"] == "method_not_allowed"
    assert {*response.headers["allow"].split(", ")} - {"HEAD"} == ROUTES[path]


@pytest.mark.parametrize(
    "path", ["/nothing", "/generate/x", "/v2/generate", "/static-offline-docs/x.js", "/%00"]
)
def test_an_unknown_path_is_404(client: httpx.Client, path: str) -> None:
    for method in ("GET", "POST"):
        response = client.request(method, path)
        assert response.status_code in (404, 405)
        check_shape(response)


def test_a_bug_is_500_and_says_nothing_of_itself(
    service: LiveService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def buggy() -> str:
        raise KeyError("secret detail")

    monkeypatch.setattr(service.runtime.catalog, "runs", buggy)
    response = service.client.get("/checkpoints")
    assert response.status_code == 500
    error = check_shape(response)
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert "secret" not in error["message"]


REFUSALS: list[tuple[str, str, str, bytes]] = [
    ("invalid_request", "POST", "/generate", b'{"prompt": 5}'),
    ("invalid_request", "POST", "/generate", b"{"),
    ("invalid_request", "POST", "/v1/completions", b'{"model": "toy", "prompt": "a", "n": 0}'),
    ("invalid_request", "POST", "/", b'{"inputs": 5}'),
    ("invalid_request", "POST", "/detokenize", b'{"tokens": [99999]}'),
    ("body_too_large", "POST", "/generate", b'{"prompt": "' + b"x" * 5000 + b'"}'),
    ("context_length_exceeded", "POST", "/generate", b'{"prompt": "a", "max_new_tokens": 9999}'),
    ("model_not_found", "POST", "/v1/completions", b'{"model": "nobody", "prompt": "a"}'),
    ("model_not_found", "GET", "/v1/models/nobody", b""),
    ("not_found", "GET", "/nothing", b""),
    ("method_not_allowed", "PUT", "/generate", b""),
    ("forbidden", "POST", "/checkpoints/reload", b"{}"),
]


@pytest.mark.parametrize(("code", "method", "path", "content"), REFUSALS)
def test_a_refusal_is_counted_once_by_its_code_and_has_a_line(
    service: LiveService,
    caplog: pytest.LogCaptureFixture,
    code: str,
    method: str,
    path: str,
    content: bytes,
) -> None:
    caplog.set_level(logging.INFO, "service")
    before = refusals(service)
    headers = {"content-type": "application/json", "x-request-id": "mine"}
    response = service.client.request(method, path, content=content, headers=headers)
    assert response.status_code >= 400
    assert refusals(service) - before == Counter({code: 1})
    (fields,) = [r.fields for r in caplog.records if r.message == "request refused"]  # type: ignore[attr-defined]
    assert fields.pop("error") in response.text.replace('\\"', '"')
    assert fields == {"id": "mine", "route": path, "reason": code}


def test_what_is_refused_before_there_is_a_request_is_counted(service: LiveService) -> None:
    before = refusals(service)
    client = RawClient(service.port)
    client.send(b"nonsense\r\n\r\n")
    client.read_until(b"invalid_request")
    client.close()
    assert refusals(service) - before == Counter({"invalid_request": 1})


def refusals(service: LiveService) -> Counter[str]:
    counts = service.metrics().by_label("admission_rejections_total", "reason")
    return Counter({code: int(count) for code, count in counts.items()})


def test_every_error_of_the_service_has_its_status() -> None:
    leaves = set()
    branches = [errors.ServiceError]
    while branches:
        found = branches.pop().__subclasses__()
        leaves.update(found)
        branches += found
    assert set(STATUS) == leaves
