"""A volume that hangs costs those who ask for it an error, and nobody else anything."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from serving import RawClient, ServiceProcess, SteadyClient, assert_unhurt
from toys import publish_toy

from service.http.operations import checkpoints, health, history, home, models
from service.http.protocols import tokenize as tokens
from service.http.protocols.nestling import generate
from service.http.protocols.openai import routes as openai
from service.http.protocols.tgi import routes as tgi

NUM_ABANDONED = 44
TIMEOUT_S = 1.0
LISTS = (b"/v1/models", b"/checkpoints", b"/v1/models/toy@1", b"/runs/toy/history")
GENERATE = {"prompt": "ab", "max_new_tokens": 2}


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    publish_toy(tmp_path / "volume", "toy", 1)
    publish_toy(tmp_path / "volume", "other", 1)
    return tmp_path / "volume"


@pytest.fixture(params=["thread", "process"])
def hanging(
    volume: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[ServiceProcess]:
    """Whoever opens the manifest of another run than the served one waits for ever."""
    options = {"run": "toy", "volume_timeout_s": TIMEOUT_S, "engine": request.param}
    with ServiceProcess(volume, **options) as service:
        service.wait_serving("toy@1")
        hang(volume, "other")
        yield service


def hang(volume: Path, run: str) -> None:
    """Have a pipe, which nobody writes to, where a manifest was."""
    manifest = volume / run / "step-00000001" / "manifest.json"
    manifest.unlink()
    os.mkfifo(manifest)


def abandon(port: int, path: bytes) -> None:
    client = RawClient(port)
    client.send(b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % path)
    client.close()


def answered_within(service: ServiceProcess, method: str, path: str, seconds: float) -> int:
    began = time.monotonic()
    body = GENERATE if method == "POST" else None
    status = service.client.request(method, path, json=body).status_code
    assert time.monotonic() - began < seconds, path
    return status


def test_44_who_left_stop_nobody(hanging: ServiceProcess) -> None:
    for number in range(NUM_ABANDONED):
        abandon(hanging.port, LISTS[number % len(LISTS)])
    assert answered_within(hanging, "GET", "/healthz", 0.5) == 200
    assert answered_within(hanging, "GET", "/readyz", 0.5) == 200
    assert answered_within(hanging, "GET", "/metrics", 1.0) == 200
    assert answered_within(hanging, "POST", "/generate", 2.0) == 200
    asked = {"prompt": "a" * 20_000, "max_new_tokens": 2}  # is tokenized in a thread
    assert hanging.client.post("/generate", json=asked).status_code == 422
    for path in LISTS:
        assert answered_within(hanging, "GET", path.decode(), TIMEOUT_S + 2) in (200, 503, 504)
    assert answered_within(hanging, "GET", "/healthz", 0.5) == 200
    hanging.signal(signal.SIGTERM)
    assert hanging.exit_code(15) == 0
    assert "Traceback" not in hanging.log()


def test_a_stream_beside_does_not_notice(volume: Path) -> None:
    options = {"run": "toy", "volume_timeout_s": TIMEOUT_S, "step_delay_s": 0.005}
    with ServiceProcess(volume, **options) as service:
        service.wait_serving("toy@1")
        hang(volume, "other")
        with SteadyClient(service) as steady:
            alone = steady.alone()

            def attack() -> None:
                ends = time.monotonic() + 2.5
                while time.monotonic() < ends:
                    abandon(service.port, b"/v1/models")
                    time.sleep(0.01)

            under = steady.during(attack)
            assert_unhurt(under, alone, settled_bytes=steady.resident_bytes())


def test_a_watcher_that_hangs_does_not_outlive_a_signal(tmp_path: Path) -> None:
    """Where the volume hangs for the thread that loads, too; the disk is a test's."""
    publish_toy(tmp_path / "volume", "toy", 1)
    control = tmp_path / "control"
    control.mkdir()
    with ServiceProcess(tmp_path / "volume", control=control, volume_timeout_s=0.5) as service:
        service.wait_serving("toy@1")
        (control / "hang").touch()
        publish_toy(tmp_path / "volume", "toy", 2)
        assert answered_within(service, "GET", "/checkpoints", 3) in (503, 504)
        assert answered_within(service, "GET", "/healthz", 0.5) == 200
        assert answered_within(service, "POST", "/generate", 2) == 200
        service.signal(signal.SIGTERM)
        assert service.exit_code(20) == 0


def calls_of(dependant: Dependant) -> Iterator[object]:
    yield dependant.call
    for one in dependant.dependencies:
        yield from calls_of(one)


def test_no_route_and_no_dependency_needs_a_thread_of_the_pool() -> None:
    rooms = (generate, openai, tgi, tokens, models, checkpoints, history, health, home)
    routes = [
        route for room in rooms for route in room.router.routes if isinstance(route, APIRoute)
    ]
    assert len(routes) > 20
    for route in routes:
        for call in calls_of(route.dependant):
            is_coroutine = asyncio.iscoroutinefunction(call) or asyncio.iscoroutinefunction(
                getattr(call, "__call__", None)  # noqa: B004  security schemes are objects
            )
            assert is_coroutine, f"{route.path}: {call}"
