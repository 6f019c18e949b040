"""The limit of ``conftest`` is 4,000 bytes."""

from collections.abc import Iterator

import httpx
import pytest
from serving import LiveService, RawClient

LIMIT = 4000
JSON = {"content-type": "application/json"}


def body_of(size: int) -> bytes:
    """A valid request of exactly so many bytes: the prompt is short, the rest is white space."""
    start = b'{"prompt": "a", "max_new_tokens": 1'
    return start + b" " * (size - len(start) - 1) + b"}"


def pieces_of(body: bytes) -> Iterator[bytes]:
    """The body in pieces, so that no length is declared."""
    for start in range(0, len(body), 500):
        yield body[start : start + 500]


def check_too_large(response: httpx.Response) -> None:
    assert response.status_code == 413
    error = response.json()["error"]
    assert error["code"] == "body_too_large"
    assert str(LIMIT) in error["message"]


@pytest.mark.parametrize("size", [100, LIMIT])
def test_a_body_up_to_the_limit_is_read(client: httpx.Client, size: int) -> None:
    body = body_of(size)
    assert client.post("/generate", content=body, headers=JSON).status_code == 200
    assert client.post("/generate", content=pieces_of(body), headers=JSON).status_code == 200


@pytest.mark.parametrize("size", [LIMIT + 1, 2 * LIMIT])
def test_a_body_over_the_limit_is_413(client: httpx.Client, size: int) -> None:
    check_too_large(client.post("/generate", content=body_of(size), headers=JSON))


@pytest.mark.parametrize("size", [LIMIT + 1, 2 * LIMIT])
def test_a_body_of_unknown_length_is_413_at_the_limit(client: httpx.Client, size: int) -> None:
    check_too_large(client.post("/generate", content=pieces_of(body_of(size)), headers=JSON))


def test_a_declared_length_is_refused_before_the_body_comes(service: LiveService) -> None:
    client = RawClient(service.port)
    client.send(
        b"POST /generate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000000000\r\n\r\n"
    )
    assert client.read_until(b'"param"').startswith(b"HTTP/1.1 413")
    client.close()


def test_an_endless_body_is_cut_off(service: LiveService) -> None:
    client = RawClient(service.port)
    client.send(
        b"POST /generate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    for _ in range(9):
        client.send(b"1f4\r\n%s\r\n" % (b" " * 500))
    assert client.read_until(b'"param"').startswith(b"HTTP/1.1 413")
    client.close()


def test_routes_without_a_body_do_not_mind(client: httpx.Client) -> None:
    assert client.request("GET", "/healthz", content=b"x" * (2 * LIMIT)).status_code == 200
