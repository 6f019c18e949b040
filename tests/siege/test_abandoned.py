"""What clients asked for that left is not done: not read, not cut into tokens, not compiled."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import LiveService, ServiceProcess, toy_settings, wait_until
from serving.burst import abandon, request_bytes, volley
from siege import costly
from siege.test_costly_requests import abandon_and_ask

from service.requests.work_thread import Lane

LONG = "It was the best of times. " * 8
"""Longer than what is cut into tokens in the event loop, and fits the toy."""


class Hold:
    """Keeps a lane's thread busy while entered."""

    def __init__(self, service: LiveService, lane: Lane) -> None:
        self._service, self._lane = service, lane
        self._go, self._has_begun = threading.Event(), threading.Event()

    def __enter__(self) -> None:
        loop = self._service.runtime._loop
        assert loop is not None

        def hold() -> None:
            self._has_begun.set()
            self._go.wait(20)

        loop.call_soon_threadsafe(lambda: loop.create_task(self._lane.do("holder", hold)))
        assert self._has_begun.wait(10)

    def __exit__(self, *_: object) -> None:
        self._go.set()


@pytest.fixture(scope="module")
def live(volume: Path) -> Iterator[LiveService]:
    with LiveService(toy_settings(volume)) as service:
        service.wait_ready()
        yield service


REQUESTS = {
    "body": request_bytes("/generate", {"prompt": "a" * 40_000}),
    "chat": costly.messages(2),
    "tokenize": request_bytes("/tokenize", {"messages": [{"role": "user", "content": "a"}]}),
    "grammar": request_bytes(
        "/generate", {"prompt": "a", "max_new_tokens": 2, "regex": "(a|b){3}"}
    ),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_work_in_a_lane_is_dropped_with_its_client(live: LiveService, kind: str) -> None:
    lane = live.runtime.short_lane
    with Hold(live, lane):
        abandon(live.port, [REQUESTS[kind]] * 5)
        wait_until(lambda: lane.num_waiting == 0, "what was left is dropped", timeout_s=10)
    assert live.client.post("/generate", json={"prompt": "a", "max_new_tokens": 1}).is_success
    wait_until(lambda: live.is_quiet, "nothing is open")


def test_work_that_is_waited_for_is_done(live: LiveService) -> None:
    lane = live.runtime.short_lane
    statuses: list[int] = []
    asking = threading.Thread(
        target=lambda: statuses.extend(volley(live.port, [REQUESTS["grammar"], REQUESTS["chat"]]))
    )
    with Hold(live, lane):
        asking.start()
        wait_until(lambda: lane.num_waiting == 2, "both wait")
    asking.join()
    assert statuses == [200, 200]


@pytest.mark.parametrize("engine", ["thread", "process"])
def test_schemas_that_were_left_are_not_in_the_way(volume: Path, engine: str) -> None:
    with ServiceProcess(volume, engine=engine) as service:
        service.wait_serving("toy@1")
        assert volley(service.port, costly.too_many_answers()) == [400, 400, 400]
        abandon_and_ask(service, 60_000, 30)
        wait_until(
            lambda: service.metrics().value("num_requests_waiting") == 0, "nothing waits for a slot"
        )
        assert service.metrics().value("num_requests_running") == 0
        service.process.terminate()
        assert service.exit_code() == 0, service.log()


def test_a_gone_client_is_no_failure_in_the_log(volume: Path) -> None:
    with ServiceProcess(volume, engine="process") as service:
        service.wait_serving("toy@1")
        abandon(service.port, [*REQUESTS.values()] * 3)
        assert volley(service.port, [REQUESTS["grammar"]]) == [200]
        assert "Traceback" not in service.log()


def test_a_client_that_leaves_within_its_body_is_no_failure(volume: Path) -> None:
    with ServiceProcess(volume) as service:
        service.wait_serving("toy@1")
        abandon(service.port, [request[:-5] for request in REQUESTS.values()], after_s=0.2)
        assert volley(service.port, [REQUESTS["grammar"]]) == [200]
        assert "Traceback" not in service.log()
