"""All connections are busy: health and metrics are answered, by a small room beside."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from serving import RawClient, ServiceProcess, wait_until

from service.http.connections.open_connections import NUM_LEAVING, NUM_SPARE

MAX_CONNECTIONS = 6
STREAM = {"prompt": "ab", "max_new_tokens": 240, "stream": True, "ignore_eos": True}
WATCHED = ("/healthz", "/readyz", "/health", "/metrics")


@pytest.fixture(scope="module", params=["thread", "process"])
def busy(volume: Path, request: pytest.FixtureRequest) -> Iterator[ServiceProcess]:
    """Few connections, and steps that take long."""
    options = {"max_connections": MAX_CONNECTIONS, "engine": request.param}
    with ServiceProcess(volume, step_delay_s=0.05, **options) as service:
        service.wait_serving("toy@1")
        yield service


@contextlib.contextmanager
def all_taken(service: ServiceProcess) -> Iterator[list[RawClient]]:
    """Streams on every connection."""
    service.client.close()
    service.client = httpx.Client(base_url=service.client.base_url, timeout=20)
    streams = []
    for _ in range(MAX_CONNECTIONS):
        streams.append(RawClient.generate(service.port, **STREAM))
        streams[-1].read_until(b"data: ")
    yield streams
    for stream in streams:
        stream.close()


def ask(service: ServiceProcess, path: str) -> httpx.Response:
    """On a connection of its own."""
    with httpx.Client(base_url=service.client.base_url, timeout=10) as fresh:
        return fresh.get(path)


def num_open(service: ServiceProcess) -> int:
    process = psutil.Process(service.process.pid)
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.laddr.port == service.port
        for each in (process, *process.children(recursive=True))
        for one in each.net_connections()
    )


def test_health_is_200_and_others_are_503(busy: ServiceProcess) -> None:
    with all_taken(busy) as streams:
        for path in WATCHED:
            answer = ask(busy, path)
            assert answer.status_code == 200, path
            assert answer.headers["connection"] == "close"
        for path in ("/version", "/", "/healthz/x", "/nothing"):
            answer = ask(busy, path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                503,
                "too_many_connections",
            )
        for stream in streams:
            stream.received = b""
            stream.read_until(b"data: ")  # it goes on
    wait_until(lambda: ask(busy, "/version").status_code == 200, "there is room again")


def test_the_room_beside_cannot_be_filled(busy: ServiceProcess) -> None:
    with all_taken(busy) as streams:
        crowd = []
        for number in range(100):
            crowd.append(RawClient(busy.port))
            with contextlib.suppress(ConnectionError):
                crowd[-1].send(b"GET /healthz HTTP/1.1\r\n" if number % 2 else b"")
            if number % 10 == 9:
                began = time.monotonic()
                assert ask(busy, "/healthz").status_code == 200
                assert time.monotonic() - began < 0.5
        assert num_open(busy) <= MAX_CONNECTIONS + NUM_SPARE + NUM_LEAVING
        for client in crowd:
            client.close()
        for stream in streams:
            stream.received = b""
            stream.read_until(b"data: ")


def test_who_asks_for_nothing_there_is_told_so_soon(busy: ServiceProcess) -> None:
    with all_taken(busy):
        client = RawClient(busy.port)
        began = time.monotonic()
        client.read_all()
        assert client.received.startswith(b"HTTP/1.1 503")
        assert 1 < time.monotonic() - began < 5
        client.close()
