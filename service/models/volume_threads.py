"""Threads that read the volume for clients: few, of their own, and nobody waits for them for long.

A volume may hang (a network that is gone, a pipe where a file should be), and a thread that waits
for it cannot be stopped. Here that costs those who ask for the volume an error, and nobody else
anything: tokens, health and the end of the process need none of these threads.
"""

import asyncio
import concurrent.futures
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel

from service.errors import DeadlineExceeded, NotReady

T = TypeVar("T")

NUM_THREADS = 4
"""More would read no faster: what they do is mostly Python's."""
MAX_WAITING = 64
"""Reads that wait for a thread; who comes then is refused."""

_Work = tuple[Callable[[], Any], "concurrent.futures.Future[Any]"]


class VolumeReads:
    """Reads the volume in threads, each read with a deadline."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._began: dict[threading.Thread, float] = {}
        """When each busy thread began with what it does."""
        self._threads: list[threading.Thread] = []

    async def read(self, look: Callable[[], T]) -> T:
        """What a look at the volume gives.

        Raises ``NotReady`` if the volume cannot be read, or if nothing that it was asked for has
        come lately, and ``DeadlineExceeded`` if this does not come in time.
        """
        if self._hangs() or self._queue.qsize() >= MAX_WAITING:
            raise NotReady("the volume does not answer; try again later")
        self._begin_threads()
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._queue.put((look, future))
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            message = f"the volume has not answered within {self._timeout_s:g} s"
            raise DeadlineExceeded(message) from error
        except OSError as error:
            raise NotReady(f"cannot read the volume just now: {error}") from error

    async def read_json(self, look: Callable[[], BaseModel]) -> bytes:
        """The same as JSON, which is made in the thread, too: a list of steps may be long."""
        return await self.read(lambda: look().model_dump_json(by_alias=True).encode())

    def stop(self) -> None:
        """Let the threads end that can; the others end with the process."""
        for _ in self._threads:
            self._queue.put(None)
        self._threads = []

    def _hangs(self) -> bool:
        long_ago = time.monotonic() - self._timeout_s
        began = [*self._began.values()]
        return len(began) >= NUM_THREADS and all(at < long_ago for at in began)

    def _begin_threads(self) -> None:
        """As many as there is work for; daemons, for which the interpreter's end does not wait."""
        while len(self._threads) < min(NUM_THREADS, len(self._began) + self._queue.qsize() + 1):
            thread = threading.Thread(target=self._work, name="volume reader", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        this = threading.current_thread()
        while (work := self._queue.get()) is not None:
            look, future = work
            if not future.set_running_or_notify_cancel():
                continue  # nobody waits for it any more
            self._began[this] = time.monotonic()
            try:
                future.set_result(look())
            except BaseException as error:  # noqa: BLE001  whoever asked is told
                future.set_exception(error)
            finally:
                del self._began[this]
