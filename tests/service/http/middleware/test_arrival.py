import asyncio
import itertools
from typing import Any

import httpx
import pytest
from serving import LiveService, RawClient, stream_generate
from starlette.types import Message, Receive, Scope, Send

from service.http.middleware.arrival import ArrivalMiddleware
from service.requests.request_start import Arrival

STANDING = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}


def pass_through(scope: Scope) -> Scope:
    """What the app behind the middleware sees; the clock reads 1, 2, 3, …"""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, await receive()))

    async def receive() -> Message:
        return {"type": "http.request", "clock": next(clock)}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    clock = itertools.count(1)
    middleware = ArrivalMiddleware(app, clock=lambda: float(next(clock)))
    asyncio.run(middleware(scope, receive, send))
    ((got, message),) = seen
    assert message["type"] == "http.request"
    return {**got, "first_message_at": message["clock"]}


def http(headers: dict[str, str] | None = None, **others: object) -> Scope:
    pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return {"type": "http", "path": "/generate", "headers": pairs, **others}


def test_a_request_is_stamped_before_its_body_is_read() -> None:
    scope = pass_through(http())
    assert (scope["state"]["arrival"].at, scope["first_message_at"]) == (1.0, 2)


def test_what_others_put_into_the_state_stays() -> None:
    state = pass_through(http({"x-request-id": "a"}, state={"pool": 1}))["state"]
    assert state == {"pool": 1, "arrival": Arrival(1.0, "/generate", "a")}


def test_what_is_no_request_is_left_alone() -> None:
    assert "state" not in pass_through({"type": "lifespan"})


ANSWERS = [
    ("GET", "/healthz", 200),
    ("GET", "/", 200),
    ("GET", "/docs", 200),
    ("GET", "/metrics", 200),
    ("GET", "/nothing", 404),
    ("PUT", "/generate", 405),
    ("POST", "/generate", 422),
    ("POST", "/checkpoints/reload", 403),
]


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
def test_every_answer_has_an_id_and_the_standing_headers(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    drawn = [client.request(method, path).headers["x-request-id"] for _ in range(2)]
    assert len(set(drawn)) == 2
    response = client.request(method, path, headers={"x-request-id": "mine.1"})
    assert response.status_code == status
    assert response.headers["x-request-id"] == "mine.1"
    for name, value in STANDING.items():
        assert response.headers[name] == value
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
    assert "server" not in response.headers


def test_a_stream_has_them_too_and_its_own_cache_control(client: httpx.Client) -> None:
    stream = stream_generate(client, prompt="a", max_new_tokens=1)
    assert stream.headers["x-request-id"]
    assert stream.headers["x-content-type-options"] == "nosniff"
    assert stream.headers.get_list("cache-control") == ["no-cache"]


@pytest.mark.parametrize("given", ["a", "A-z_0.9:/+=@", "x" * 128, "0" * 32])
def test_an_id_of_the_client_comes_back(client: httpx.Client, given: str) -> None:
    headers = {"x-request-id": given}
    assert client.get("/healthz", headers=headers).headers["x-request-id"] == given


@pytest.mark.parametrize("given", [b"", b"x" * 129, b"a b", b"a\tb", b"a,b", b'"', b"\xe9", b"<a>"])
def test_an_id_that_could_do_harm_is_400_and_another_is_drawn(
    client: httpx.Client, given: bytes
) -> None:
    response = client.post("/generate", json={"prompt": "a"}, headers={b"x-request-id": given})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-request-id"
    assert len(response.headers["x-request-id"]) == 32
    assert response.headers["x-content-type-options"] == "nosniff"


def test_the_same_id_twice_at_once_is_two_requests(service: LiveService) -> None:
    body = b'{"prompt": "ab", "max_new_tokens": 40, "seed": 5}'
    clients = [RawClient(service.port) for _ in range(3)]
    for client in clients:
        client.send(
            b"POST /generate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            b"X-Request-Id: same\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
    answers = [client.read_until(b'"}') for client in clients]
    for client in clients:
        client.close()
    texts = {answer.partition(b'"text":')[2] for answer in answers}
    assert len(texts) == 1, "each has the whole answer"
    assert all(b"x-request-id: same\r\n" in answer for answer in answers)
