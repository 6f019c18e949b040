"""Roots of threads and tasks: whatever is raised there, it is counted, said once, and seen."""

import asyncio
import logging
import threading

import pytest

from lm.machine import threads
from lm.machine.threads import Roots


class Sudden(BaseException):
    """As pyo3's panics are: no ``Exception``."""


RAISED: tuple[type[BaseException], ...] = (
    *(ValueError, MemoryError, RecursionError, GeneratorExit),
    *(SystemExit, KeyboardInterrupt, asyncio.CancelledError, Sudden),
)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "AGAIN_AFTER_S", 0.001)


@pytest.mark.parametrize("kind", RAISED)
def test_a_thread_that_is_to_go_on_survives_everything(kind: type[BaseException]) -> None:
    counted: list[str] = []
    roots = Roots(counted.append)
    went_on = threading.Event()

    def body() -> None:
        if len(counted) < 3:
            raise kind
        went_on.set()
        thread.leave()

    thread = roots.thread("worker", body, again=True)
    thread.start()
    assert went_on.wait(20)
    thread.join()
    assert counted == ["worker"] * 3
    assert roots.gone == ()


@pytest.mark.parametrize("kind", RAISED)
def test_a_thread_that_ends_is_seen_and_tells(kind: type[BaseException]) -> None:
    counted: list[str] = []
    roots = Roots(counted.append)
    told = threading.Event()

    def body() -> None:
        raise kind

    thread = roots.thread("worker", body, on_gone=told.set)
    thread.start()
    assert told.wait(20)
    thread._thread.join()
    assert roots.gone == ("worker",)
    assert counted == ["worker"]


@pytest.mark.parametrize("again", [True, False])
def test_a_thread_that_returns_unasked_is_gone(again: bool) -> None:
    counted: list[str] = []
    roots = Roots(counted.append)
    told = threading.Event()
    thread = roots.thread("worker", lambda: None, again=again, on_gone=told.set)
    thread.start()
    assert told.wait(20)
    thread._thread.join()
    assert (roots.gone, counted) == (("worker",), ["worker"])


def test_what_was_asked_to_end_or_does_not_matter_is_not_missed() -> None:
    roots = Roots()
    ended = threading.Event()
    thread = roots.thread("worker", ended.wait)
    other = roots.thread("other", lambda: None, matters=False)
    unstarted = roots.thread("unstarted", lambda: None)
    thread.start()
    other.start()
    thread.leave()
    ended.set()
    for one in (thread, other, unstarted):
        one.join()
    assert roots.gone == ()


def test_a_root_survives_its_own_counting_and_telling() -> None:
    def fail(*_: object) -> None:
        raise Sudden

    roots = Roots(fail)
    thread = roots.thread("worker", fail, on_gone=fail)
    thread.start()
    thread._thread.join(20)
    assert roots.gone == ("worker",)


def test_of_many_failures_some_are_said(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    counted: list[str] = []
    roots = Roots(counted.append, lambda: now)
    with caplog.at_level(logging.ERROR):
        for _ in range(100):
            with roots.guard("worker"):
                raise Sudden("why")
        now = threads.SAY_EVERY_S
        with roots.guard("worker"):
            raise Sudden("why")
    assert len(counted) == 101
    first, second = caplog.records
    assert first.exc_info is not None
    assert first.getMessage() == "worker has failed"
    assert second.getMessage() == "worker has failed, and 99 times since it was said last"


@pytest.mark.parametrize("kind", [k for k in RAISED if k is not asyncio.CancelledError])
def test_a_task_goes_on_and_leaves_its_loop_alone(kind: type[BaseException]) -> None:
    counted: list[str] = []

    async def work() -> None:
        if len(counted) < 2 and kind is not GeneratorExit:
            raise kind

    async def main() -> None:
        await Roots(counted.append).task("beat", work)

    asyncio.run(main())
    assert counted == ([] if kind is GeneratorExit else ["beat"] * 2)


def test_a_task_can_be_cancelled() -> None:
    async def main() -> None:
        task = Roots().task("beat", lambda: asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
