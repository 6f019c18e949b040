"""A thread for work that would hold the event loop up, in turns between clients.

One thread, so that however many ask, one piece of work at a time wants the interpreter's lock or a
core. The client whose work has taken the least time comes next. Work whose client has left is
dropped before it begins.
"""

import asyncio
import collections
import concurrent.futures
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from service.errors import QueueFull, TooManyRequests
from service.observe.thread_priority import lower_priority

T = TypeVar("T")

MAX_WAITING = 512
"""Pieces of work: as many as connections, by default."""
MAX_WAITING_OF_CLIENT = 256
"""Of one client's, so that there is room for another's."""
RESTS = 3
"""Times as long as a piece of work took, its thread then rests while more waits: much of it holds
the interpreter's lock, and the event loop needs it several times for an answer."""
LONGEST_REST_S = 0.1
IDLE_S = 60.0
"""A thread that had no work for so long ends; the next work starts one."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
    future: "concurrent.futures.Future[Any]"
    work: Callable[[], object]


class Lane:
    """One thread, begun with the first work. The clock is any that counts seconds."""

    def __init__(
        self,
        name: str,
        *,
        nicer_by: int = 0,
        clock: Callable[[], float] = time.perf_counter,
        rest: Callable[[float], object] = time.sleep,
    ) -> None:
        """``clock`` and ``rest`` count seconds."""
        self._name = name
        self._nicer_by = nicer_by
        self._clock = clock
        self._rest = rest
        self._changed = threading.Condition()
        self._waiting: dict[str, collections.deque[_Job]] = {}
        """By client; those without work are not in it."""
        self._spent: dict[str, float] = {}
        """Seconds by client, of those that had work since all was done; a newcomer begins at the
        least of those that wait, so that nobody saves turns up."""
        self._is_running = False

    @property
    def num_waiting(self) -> int:
        """Pieces of work that have not begun."""
        with self._changed:
            return sum(map(len, self._waiting.values()))

    async def do(self, client: str, work: Callable[[], T]) -> T:
        """What ``work`` gives, or raises; a cancelled call's work does not begin.

        Raises ``TooManyRequests`` or ``QueueFull`` if too much waits already.
        """
        job = _Job(concurrent.futures.Future(), work)
        self._add(client, job)
        try:
            result: T = await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            self._drop(client, job)
            raise
        return result

    def _add(self, client: str, job: _Job) -> None:
        with self._changed:
            queue = self._waiting.get(client)
            if queue is not None and len(queue) >= MAX_WAITING_OF_CLIENT:
                raise TooManyRequests(
                    f"{len(queue)} requests of this client wait to be read", retry_after_s=1
                )
            if sum(map(len, self._waiting.values())) >= MAX_WAITING:
                raise QueueFull(f"{MAX_WAITING} requests wait to be read", retry_after_s=1)
            if queue is None:
                least = min((self._spent[other] for other in self._waiting), default=0.0)
                self._spent[client] = max(self._spent.get(client, 0.0), least)
                queue = self._waiting[client] = collections.deque()
            queue.append(job)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
            self._changed.notify()

    def _drop(self, client: str, job: _Job) -> None:
        """Forget work that nobody waits for, and with it what it holds."""
        with self._changed:
            queue = self._waiting.get(client, collections.deque())
            if job in queue:
                queue.remove(job)
                if not queue:
                    del self._waiting[client]

    def _run(self) -> None:
        if self._nicer_by:
            lower_priority(self._nicer_by)
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Do one piece; false if there has been none for long. Its locals end with it."""
        taken = self._take()
        if taken is None:
            return False
        client, job = taken
        if not job.future.set_running_or_notify_cancel():
            return True
        began = self._clock()
        try:
            result = job.work()
        except BaseException as error:  # noqa: BLE001  of whoever waits; the thread goes on
            job.future.set_exception(error)
        else:
            job.future.set_result(result)
        with self._changed:
            took = self._clock() - began
            self._spent[client] = self._spent.get(client, 0.0) + took
            is_next_waiting = bool(self._waiting)
        if is_next_waiting:
            self._rest(min(RESTS * took, LONGEST_REST_S))
        return True

    def _take(self) -> tuple[str, _Job] | None:
        with self._changed:
            if not self._waiting:
                self._spent.clear()
                if not self._changed.wait_for(lambda: bool(self._waiting), IDLE_S):
                    self._is_running = False
                    return None
            client = min(self._waiting, key=lambda one: self._spent.get(one, 0.0))
            queue = self._waiting[client]
            job = queue.popleft()
            if not queue:
                del self._waiting[client]
            return client, job
