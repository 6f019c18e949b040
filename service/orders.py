"""Work that other threads hand to the one that loads, and its waiting for some.

Loading is done one at a time and by one thread: what it costs beside the running models is
bounded, and nothing is loaded twice.
"""

import concurrent.futures
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Orders:
    """A queue of calls, each with a future for what comes of it."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], concurrent.futures.Future[Any]]]
        self._queue = queue.SimpleQueue()
        self._wake = threading.Event()

    def give(self, work: Callable[[], T]) -> "concurrent.futures.Future[T]":
        """Ask for a call."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._queue.put((work, future))
        self._wake.set()
        return future

    def wait(self, timeout_s: float) -> None:
        """Wait for an order or ``wake``, at most so long."""
        self._wake.wait(timeout_s)
        self._wake.clear()

    def wake(self) -> None:
        """End the wait."""
        self._wake.set()

    def carry_out(self) -> None:
        """Do what was asked for, in the order of asking; errors are for those who asked."""
        while not self._queue.empty():
            work, future = self._queue.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001  whoever asked is told
                future.set_exception(error)

    def refuse(self, error: Exception) -> None:
        """Answer everything that was asked for with an error."""
        while not self._queue.empty():
            _, future = self._queue.get()
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
