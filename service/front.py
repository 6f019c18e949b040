"""What HTTP sees of a service, whether its engine is a thread beside it or another process.

``service.runtime`` is the one with everything in it; ``service.processes.remote`` leads to an
engine's process.
"""

import abc
import asyncio
import functools
import time
from collections.abc import Sequence
from typing import Any

from lm.machine.threads import Roots
from service.engine.phase_timer import Profile
from service.engine.served_model import ModelCard
from service.engine.structure.constraint import Prepared
from service.models.catalog import Catalog
from service.observe.metrics import FrontMetrics
from service.observe.traces import Traces
from service.requests.limits import BROKEN, Admission
from service.requests.loop_turns import Turnstile
from service.requests.tracker import Reply, Submits, Switchboard
from service.requests.work_thread import Lane
from service.settings.schema import Settings

LONG_WORK_NICER_BY = 10
"""Of a core that it and a step want, such work takes about a tenth."""


class Front(abc.ABC):
    """Takes requests in and gives events back, in one event loop."""

    settings: Settings
    metrics: FrontMetrics
    roots: Roots
    """Of its threads and lasting tasks."""
    admission: Admission
    traces: Traces | None
    switchboard: Switchboard
    worker: Submits[Any]
    catalog: Catalog
    profile: Profile | None = None
    joins_frames = False
    """Whether events of a stream that are there at once leave in one piece."""

    @functools.cached_property
    def turnstile(self) -> Turnstile:
        """Requests pass it one by one before they are read."""
        return Turnstile()

    @functools.cached_property
    def short_lane(self) -> Lane:
        """Where clients' work is done that would hold the event loop up."""
        return Lane("short work")

    @functools.cached_property
    def long_lane(self) -> Lane:
        """The same for work of up to seconds, so that short work need not wait for it."""
        return Lane("long work", nicer_by=LONG_WORK_NICER_BY)

    @staticmethod
    def clock() -> float:
        """The one monotonic clock of deadlines and latencies, in seconds.

        The system's own on Linux, so that its readings hold in every process.
        """
        return time.perf_counter()

    @property
    def why_broken(self) -> str | None:
        """Why only a restart helps, if so."""
        if self.admission.is_broken:
            return BROKEN
        if gone := self.roots.gone:
            return f"the thread {gone[0]} has ended by a bug; the service has to be restarted"
        return None

    @abc.abstractmethod
    async def start(self) -> None:
        """Begin, in the event loop that answers requests."""

    @abc.abstractmethod
    async def stop(self) -> None:
        """End; requests that still run are aborted."""

    @abc.abstractmethod
    def model(self) -> ModelCard:
        """The model for new requests; raises ``NotReady`` with the reason if there is none."""

    @abc.abstractmethod
    async def model_named(
        self, name: str | None, deadline: float, party: str | None = None
    ) -> ModelCard:
        """The model that a request names, loaded if it has to be; ``None`` is the current one.

        ``party`` is who asks, whose loads are limited; ``None`` is whoever runs the service.
        Raises ``UnknownModel`` naming what exists, ``NoRoom``, ``NotReady``, ``QueueFull``,
        ``TooManyRequests`` or, at the deadline, ``DeadlineExceeded``. Cancelled, it drops a load
        that has not begun.
        """

    @abc.abstractmethod
    async def check_grammar(self, model: ModelCard, grammar: str, owner: str) -> Prepared | None:
        """Raise ``InvalidRequest`` for a structure that makes no sense, or takes too long.

        Where the engine is, give what it begins with. ``owner`` is whose turn this takes.
        """

    @abc.abstractmethod
    async def accepted(self, replies: Sequence[Reply]) -> None:
        """Return once requests that were just opened are accepted; raises if none of them is."""

    async def drain(self) -> None:
        """Accept nothing more and wait for what was accepted; after so long, abort it."""
        self.admission.is_draining = True
        deadline = self.clock() + self.settings.drain_timeout_s
        while self.switchboard.num_open and self.clock() < deadline:
            await asyncio.sleep(0.02)
        self.switchboard.abort_all()

    def write_profile(self) -> None:  # noqa: B027  nothing is measured where no engine is
        """Write where steps' time has gone, if that is measured."""
