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
        self._refusal: Exception | None = None
        """What every order gets once nobody carries any out."""

    def give(self, work: Callable[[], T]) -> "concurrent.futures.Future[T]":
        """Ask for a call."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._queue.put((work, future))
        self._wake.set()
        if self._refusal is not None:
            self.refuse(self._refusal)
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
            except BaseException as error:
                # In the task of whoever asked it would pass by everything that answers clients.
                future.set_exception(RuntimeError(f"{type(error).__name__} while it was done"))
                raise

    def refuse(self, error: Exception) -> None:
        """Answer everything that was asked for, and what will be, with an error."""
        self._refusal = error
        while True:
            try:
                _, future = self._queue.get_nowait()
            except queue.Empty:  # two threads may refuse at once
                return
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
