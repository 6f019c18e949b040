"""The front of an HTTP process: connections and replies here, the engine in another process."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from lm.machine.threads import Roots
from service.engine.served_model import ModelCard
from service.errors import NotReady
from service.front import Front
from service.models import naming
from service.models.catalog import Catalog
from service.observe import traces
from service.observe.loop_lag import beat
from service.observe.metrics import FrontMetrics
from service.processes.engine_client import Door
from service.requests.limits import Admission, Limits
from service.requests.tracker import Reply, Switchboard
from service.settings.schema import Settings

UNLIMITED = 1 << 40
"""Requests: the engine's process counts those of all HTTP processes, and refuses."""


class RemoteFront(Front):
    """What HTTP sees of a service whose engine is in another process."""

    joins_frames = True

    def __init__(self, settings: Settings, path: Path) -> None:
        """``path`` is the Unix socket of the engine's process."""
        self.settings = settings
        self.metrics = FrontMetrics()
        self.roots = Roots(self.metrics.on_thread_failure)
        self.admission = Admission(Limits(num_slots=UNLIMITED, max_waiting_requests=UNLIMITED))
        endpoint = settings.otlp_endpoint
        self.traces = None if endpoint is None else traces.connect(endpoint, self.clock)
        self.switchboard = Switchboard(self.metrics, self.admission, self.traces)
        self.catalog = Catalog(settings.volume)
        self.worker: Door = Door(self.switchboard)
        self._path = path
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect, and wait until it is known which model is current."""
        self.worker.connect(self._path)
        loop = asyncio.get_running_loop()
        self._tasks = [
            self.roots.task("heartbeat", lambda: beat(self.metrics.loop_lag.observe, self.clock)),
            self.roots.task("engine watch", self._watch),
        ]
        known = loop.create_task(self.worker.is_known.wait())
        lost = loop.create_task(self.worker.is_lost.wait())
        await asyncio.wait({known, lost}, return_when=asyncio.FIRST_COMPLETED)
        known.cancel()
        lost.cancel()
        if self.worker.is_lost.is_set():
            raise NotReady("the engine's process has ended")

    async def stop(self) -> None:
        """Hang up; the engine aborts what still runs."""
        for task in self._tasks:
            task.cancel()
        self.worker.close()
        if self.traces is not None:
            await asyncio.to_thread(self.traces.close)

    def model(self) -> ModelCard:
        """The model for new requests; raises ``NotReady`` if there is none."""
        if self.worker.current is None:
            raise NotReady("no model is served yet")
        return self.worker.current

    async def model_named(
        self, name: str | None, deadline: float, party: str | None = None
    ) -> ModelCard:
        """The model that a request names: the current one at once, others from the engine."""
        current = self.worker.current
        if current is not None:
            run = current.checkpoint.run
            followed = (None, naming.LATEST, run, f"{run}@{naming.LATEST}", current.checkpoint.name)
            if name in followed:
                return current
        return await self.worker.find(name, deadline, party)

    async def check_grammar(self, model: ModelCard, grammar: str, owner: str) -> None:
        """The engine's process checks it as it accepts the request."""

    async def accepted(self, replies: Sequence[Reply]) -> None:
        """Return once requests that were just opened are accepted; raises if none of them is."""
        await self.worker.accepted(replies)

    async def _watch(self) -> None:
        """Let nobody wait for an engine that has ended."""
        await self.worker.is_lost.wait()
        self.admission.is_broken = True
        self.switchboard.fail_all(self.clock())
