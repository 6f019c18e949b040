"""Work that other threads hand to the one that loads, and its waiting for some.

Loading is done one at a time and by one thread: what it costs beside the running models is
bounded, and nothing is loaded twice. Parties take turns, each in the order of its asking. One that
has had the thread for some time waits as long before its next turn, so that nobody has more than
half of it. What nobody waits for any more is dropped.
"""

import collections
import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from service.errors import QueueFull, TooManyRequests

T = TypeVar("T")

MOST_OF_A_PARTY = 8
"""Calls of one party that wait; somebody who names eight steps at once is answered in turn."""
MOST = 256
"""Calls that wait, of all parties."""
RETRY_AFTER_S = 2


@dataclasses.dataclass(frozen=True, eq=False)
class _Order:
    work: Callable[[], Any]
    future: "concurrent.futures.Future[Any]"
    party: str | None


class Orders:
    """Calls that wait, each with a future for what comes of it; cancelling one drops it."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[_Order] = []
        """In the order of asking."""
        self._resting: dict[str | None, float] = {}
        """Until when parties that had the thread do not get it."""
        self._num_turns: collections.Counter[str | None] = collections.Counter()
        """Turns of the parties that wait, for who has had fewest."""
        self._wake = threading.Event()
        self._refusal: Exception | None = None
        """What every order gets once nobody carries any out."""

    def give(
        self, work: Callable[[], T], party: str | None = None
    ) -> "concurrent.futures.Future[T]":
        """Ask for a call; without a party, for whoever runs the service, who never waits in turn.

        Raises ``TooManyRequests`` or ``QueueFull`` where too many wait already.
        """
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._lock:
            self._forget_cancelled()
            own = sum(order.party == party for order in self._waiting)
            if party is not None and own >= MOST_OF_A_PARTY:
                raise TooManyRequests(
                    f"{own} requests of yours wait for a model that they name; the limit is "
                    f"{MOST_OF_A_PARTY}",
                    retry_after_s=RETRY_AFTER_S,
                )
            if party is not None and len(self._waiting) >= MOST:
                raise QueueFull(
                    f"{len(self._waiting)} requests wait for a model that they name",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._waiting.append(_Order(work, future, party))
        self._wake.set()
        if self._refusal is not None:
            self.refuse(self._refusal)
        return future

    def wait(self, timeout_s: float) -> None:
        """Wait for an order or ``wake``, at most so long; shorter where a party's rest ends."""
        with self._lock:
            now = self._clock()
            rests = [self._resting.get(order.party, now) - now for order in self._waiting]
        self._wake.wait(max(0.0, min([timeout_s, *rests])))
        self._wake.clear()

    def wake(self) -> None:
        """End the wait."""
        self._wake.set()

    def carry_out(self, for_s: float = 0.0) -> None:
        """Do what was asked for; errors are for those who asked.

        No call begins after ``for_s`` seconds but the first: whoever has something else to do
        waits for them no longer than that and one call.
        """
        end = self._clock() + for_s
        while (order := self._next()) is not None:
            self._do(order)
            if self._clock() >= end and order.party is not None:
                self._wake.set()  # what is left waits for the next time
                return

    def refuse(self, error: Exception) -> None:
        """Answer everything that was asked for, and what will be, with an error."""
        with self._lock:
            self._refusal = error
            waiting, self._waiting = self._waiting, []
        for order in waiting:
            if order.future.set_running_or_notify_cancel():
                order.future.set_exception(error)

    def _do(self, order: _Order) -> None:
        began = self._clock()
        try:
            order.future.set_result(order.work())
        except Exception as error:  # noqa: BLE001  whoever asked is told
            order.future.set_exception(error)
        except BaseException as error:
            # In the task of whoever asked it would pass by everything that answers clients.
            order.future.set_exception(RuntimeError(f"{type(error).__name__} while it was done"))
            raise
        finally:
            if order.party is not None:
                now = self._clock()
                self._resting[order.party] = now + (now - began)

    def _next(self) -> _Order | None:
        """The next call, begun; ``None`` if there is none, or none whose party may have it now."""
        with self._lock:
            self._forget_cancelled()
            now = self._clock()
            self._resting = {who: until for who, until in self._resting.items() if until > now}
            ready = [one for one in self._waiting if one.party not in self._resting]
            while ready:
                order = min(
                    ready, key=lambda one: (one.party is not None, self._num_turns[one.party])
                )
                ready.remove(order)
                self._waiting.remove(order)
                if order.future.set_running_or_notify_cancel():
                    self._num_turns[order.party] += 1
                    return order
        return None

    def _forget_cancelled(self) -> None:
        self._waiting = [one for one in self._waiting if not one.future.cancelled()]
        waiting = {one.party for one in self._waiting}
        if waiting != set(self._num_turns):
            # Who comes now has had as many as whoever has had fewest: no debt and no credit.
            fewest = min(
                (self._num_turns[who] for who in waiting & set(self._num_turns)), default=0
            )
            kept = {who: self._num_turns.get(who, fewest) for who in waiting}
            self._num_turns = collections.Counter(kept)
