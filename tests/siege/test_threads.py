"""Attack: each thread is killed, by whatever can be raised in it and by returning.

What can go on does; what cannot is seen by ``/healthz``, or ends the process.
"""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import ServiceProcess, wait_until
from toys import publish_toy

RAISED = ("Sudden", "SystemExit", "KeyboardInterrupt", "MemoryError", "GeneratorExit")
MODES = ("thread", "process")
GENERATE = {"prompt": "To be", "max_new_tokens": 4}


def slow(what: str) -> Any:
    """A service of its own for each: in ``make test-all``."""
    return pytest.param(what, marks=pytest.mark.slow)


class Victim:
    """A service that obeys orders to its threads."""

    def __init__(self, service: ServiceProcess, orders: Path, volume: Path) -> None:
        self.service = service
        self.volume = volume
        self._orders = orders

    def kill(self, thread: str, what: str) -> None:
        """Have something happen in a thread at its next chance."""
        beside = self._orders / f".{thread}"
        beside.write_text(what)
        beside.rename(self._orders / thread)

    def wait_killed(self, thread: str) -> None:
        wait_until(lambda: not (self._orders / thread).exists(), f"{thread} is hit")

    def health(self) -> int:
        return self.service.client.get("/healthz").status_code

    def generate(self) -> httpx.Response:
        return self.service.client.post("/generate", json=GENERATE)

    def failures(self, thread: str) -> float:
        counted = self.service.metrics().by_label("thread_failures_total", "thread")
        return counted.get(thread, 0.0)


@pytest.fixture(scope="module", params=MODES)
def victim(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Victim]:
    """One that is to survive what a file's tests do to it."""
    directory = tmp_path_factory.mktemp("orders")
    with start(directory, request.param) as service:
        yield Victim(service, directory, directory / "volume")


def start(directory: Path, engine: str) -> ServiceProcess:
    publish_toy(directory / "volume", "toy", 1)
    return ServiceProcess(directory / "volume", orders=directory, engine=engine)


@pytest.mark.parametrize("what", RAISED)
def test_the_watcher_goes_on_and_swaps(victim: Victim, what: str) -> None:
    before = victim.failures("watcher")
    victim.kill("watcher", what)
    victim.wait_killed("watcher")
    step = 2 + max(int(path.name[5:]) for path in (victim.volume / "toy").glob("step-*"))
    publish_toy(victim.volume, "toy", step)
    victim.service.wait_serving(f"toy@{step}")
    assert victim.failures("watcher") == before + 1
    assert victim.health() == 200


@pytest.mark.parametrize("what", RAISED)
def test_a_command_that_fails_ends_one_request_and_not_the_engine(
    victim: Victim, what: str
) -> None:
    victim.service.wait_serving(victim.service.client.get("/readyz").json()["checkpoint"])
    before = victim.failures("engine")
    victim.kill("submit", what)
    answer = victim.generate()
    assert answer.status_code == 500
    assert "Traceback" not in answer.text
    assert victim.generate().status_code == 200
    assert victim.failures("engine") == before + 1
    assert victim.health() == 200


@pytest.mark.parametrize("what", RAISED[:3])
def test_the_heartbeat_goes_on(victim: Victim, what: str) -> None:
    victim.kill("heartbeat", what)
    victim.wait_killed("heartbeat")
    wait_until(lambda: "heartbeat has failed" in victim.service.log(), "it is said")
    victim.kill("heartbeat", what)
    victim.wait_killed("heartbeat")  # it beats again
    assert victim.generate().status_code == 200
    assert victim.health() == 200


@pytest.mark.parametrize("engine", MODES)
def test_a_watcher_that_returns_is_missed(tmp_path: Path, engine: str) -> None:
    with start(tmp_path, engine) as service:
        victim = Victim(service, tmp_path, tmp_path / "volume")
        service.wait_serving("toy@1")
        assert victim.health() == 200
        victim.kill("watcher", "return")
        wait_until(lambda: victim.health() == 503, "health says so")
        said = service.client.get("/healthz").json()
        assert said["status"] == "broken"
        assert "watcher" in said["reason"]
        assert service.client.get("/readyz").status_code == 503
        asked = service.client.post("/generate", json=GENERATE | {"model": "toy@7"}, timeout=20)
        assert 400 <= asked.status_code < 504
        service.signal(signal.SIGTERM)
        assert service.exit_code() == 0


@pytest.mark.parametrize("what", ["return", *map(slow, RAISED[:3])])
def test_an_engine_that_ends_is_missed(tmp_path: Path, what: str) -> None:
    with start(tmp_path, "thread") as service:
        victim = Victim(service, tmp_path, tmp_path / "volume")
        service.wait_serving("toy@1")
        victim.kill("engine", what)
        assert victim.generate().status_code >= 500
        wait_until(lambda: victim.health() == 503, "health says so")
        assert "engine" in service.client.get("/healthz").json()["reason"]
        assert victim.generate().status_code == 503
        service.signal(signal.SIGTERM)
        assert service.exit_code() == 0


@pytest.mark.parametrize("what", ["return", *map(slow, RAISED[:3])])
def test_an_engine_of_its_own_that_ends_ends_the_service(tmp_path: Path, what: str) -> None:
    with start(tmp_path, "process") as service:
        victim = Victim(service, tmp_path, tmp_path / "volume")
        service.wait_serving("toy@1")
        victim.kill("engine", what)
        assert victim.generate().status_code >= 500
        assert service.exit_code() == 1


def test_events_that_cannot_be_handed_out_hang_nobody(tmp_path: Path) -> None:
    with start(tmp_path, "thread") as service:
        victim = Victim(service, tmp_path, tmp_path / "volume")
        service.wait_serving("toy@1")
        victim.kill("events", "Sudden")
        assert victim.generate().status_code == 500
        assert victim.health() == 503


@pytest.mark.parametrize("what", ["Sudden", *map(slow, RAISED[1:3])])
def test_an_http_process_that_cannot_take_a_card_is_begun_again(tmp_path: Path, what: str) -> None:
    with start(tmp_path, "process") as service:
        victim = Victim(service, tmp_path, tmp_path / "volume")
        service.wait_serving("toy@1")
        victim.kill("cards", what)
        publish_toy(victim.volume, "toy", 2)
        victim.wait_killed("cards")

        def is_serving() -> bool:
            try:
                return victim.generate().status_code == 200
            except httpx.TransportError:
                return False

        wait_until(is_serving, "another process answers", timeout_s=60)
        assert victim.health() == 200
