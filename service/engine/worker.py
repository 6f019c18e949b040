"""The one thread that owns the models: takes commands, steps engines, hands out events.

Other threads talk to it through ``submit``, ``abort`` and ``flip``; it answers through one
callback, called from its thread once a step with everything that happened. After a flip the old
model finishes what it has begun, beside the new one, and is then let go: no request fails and
none mixes weights.
"""

import dataclasses
import logging
import queue
from collections.abc import Callable

from lm.machine.threads import Roots
from service.engine.engine import Engine
from service.engine.phase_timer import WAITING, Laps
from service.engine.request import (
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    RequestRefused,
    StepStats,
)
from service.engine.request_faults import failed, is_lasting
from service.engine.served_model import ServedModel

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one turn of the worker brought."""

    events: list[Event]
    began_at: float
    """Reading of the worker's clock before the step: what started, started then."""
    at: float
    """Reading of the worker's clock when the step had ended."""
    stats: StepStats


Command = Callable[[], list[Event]]
ENGINE = "engine"
"""Name of the thread, in logs and metrics."""


class Worker:
    """Runs engines in a thread of its own, the current model's and those being drained."""

    def __init__(
        self,
        on_turn: Callable[[Turn], None],
        clock: Callable[[], float],
        begin: Callable[[], None] = lambda: None,
        on_death: Callable[[], None] = lambda: None,
        laps: Laps | None = None,
        roots: Roots | None = None,
    ) -> None:
        """``begin`` comes first in the thread, to settle its manners; ``on_death`` after a bug."""
        self._roots = roots or Roots()
        self._laps = laps or Laps()
        self._begin = begin
        self._on_turn = on_turn
        self._clock = clock
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._engines: list[Engine] = []
        self._owners: dict[str, Engine] = {}
        self._stopping = False
        self._device_fault: BaseException | None = None
        """An error of the device that only a new process gets rid of."""
        self._thread = self._roots.thread(ENGINE, self._run, on_gone=on_death)
        self.current: ServedModel | None = None
        """The model that new requests go to."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Abort what is left and end the thread."""
        self._thread.leave()
        self._commands.put(self._begin_stop)
        self._thread.join()

    def submit(self, model: ServedModel, request: GenerationRequest) -> None:
        """Queue a request on a model; it stays there even if another takes over."""
        engine = model.engine
        self._put(engine, lambda: self._submit(engine, request))

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> None:
        """End a request before the next step; nothing if it has already ended."""
        self._commands.put(lambda: self._abort(request_id, reason))

    def end_all(self, model: ServedModel, message: str) -> None:
        """End everything that a model still runs, as timed out."""
        engine = model.engine
        self._put(engine, lambda: engine.finish_all(FinishReason.TIMEOUT, message))

    def flip(self, model: ServedModel) -> None:
        """Send all new requests to a model that is loaded and warm."""
        self.current = model

    @property
    def num_models(self) -> int:
        """Models held: the current one and those that still have requests."""
        engines = set(self._engines)
        if self.current is not None:
            engines.add(self.current.engine)
        return len(engines)

    def _run(self) -> None:
        """Ends by an error in our own books or the device's, which are not to be trusted then."""
        self._begin()
        while not self._stopping:
            self._take_turn()

    def _put(self, engine: Engine, command: Command) -> None:
        """Queue a command that concerns an engine: if it fails, that engine's requests do."""
        self._commands.put(lambda: self._carry_out(engine, command))

    def _carry_out(self, engine: Engine, command: Command) -> list[Event]:
        try:
            return command()
        except BaseException as error:  # noqa: BLE001  also a Rust panic or a SystemExit
            self._roots.failed(ENGINE, error)
            return self._fail(engine, _for_clients(error))

    def _take_turn(self) -> None:
        """One step of every engine; a function of its own, so that no local outlives a model."""
        was_idle = not self._engines
        events = self._take_commands()
        self._laps.lap(WAITING if was_idle else "commands")
        began_at = self._clock()
        for engine in self._engines:
            events.extend(self._step(engine))
        stats = _total(self._engines)
        self._engines = [engine for engine in self._engines if not engine.is_idle]
        self._laps.lap("statistics")
        self._on_turn(Turn(events, began_at, self._clock(), stats))
        self._laps.lap("telling the event loop")
        self._laps.end(stats)
        if self._device_fault is not None:
            raise self._device_fault

    def _take_commands(self) -> list[Event]:
        """Carry out what other threads asked for; waits for that while there is no work."""
        events: list[Event] = []
        wait = not self._engines
        while True:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return events
            events.extend(self._forget_ended(command()))
            wait = False

    def _step(self, engine: Engine) -> list[Event]:
        """Advance one engine; a failing step ends its requests, not the service."""
        began_at = self._clock()
        expired = self._forget_ended(engine.expire(began_at))
        try:
            events = self._forget_ended(engine.step())
            engine.observe(self._clock() - began_at)
            return [*expired, *events]
        except BaseException as error:  # whatever the model raises, clients get an answer
            logger.exception("a step failed")
            self._roots.failed(ENGINE, error)
            if is_lasting(error):
                self._device_fault = error
            return [*expired, *self._fail(engine, _for_clients(error))]

    def _fail(self, engine: Engine, message: str) -> list[Event]:
        """End all requests of an engine, those too whose end was lost with the failing step."""
        engine.finish_all(FinishReason.ERROR)
        request_ids = [name for name, owner in self._owners.items() if owner is engine]
        return self._forget_ended(
            [Finished(name, FinishReason.ERROR, message=message) for name in request_ids]
        )

    def _forget_ended(self, events: list[Event]) -> list[Event]:
        """The same events, once the requests that they end have no owner any more."""
        for event in events:
            if event.is_final:
                self._owners.pop(event.request_id, None)
        return events

    def _submit(self, engine: Engine, request: GenerationRequest) -> list[Event]:
        try:
            engine.submit(request)
        except BaseException as error:
            if is_lasting(error):
                raise
            if not isinstance(error, RequestRefused):
                self._roots.failed(ENGINE, error)
            engine.finish(request.request_id, FinishReason.ERROR)
            return [failed(request.request_id, error)]
        self._owners[request.request_id] = engine
        if engine not in self._engines:
            self._engines.append(engine)
        return []

    def _abort(self, request_id: str, reason: FinishReason) -> list[Event]:
        engine = self._owners.get(request_id)
        if engine is None:
            return []
        return self._carry_out(engine, lambda: engine.finish(request_id, reason))

    def _begin_stop(self) -> list[Event]:
        self._stopping = True
        return [event for e in self._engines for event in e.finish_all(FinishReason.ABORT)]


def _total(engines: list[Engine]) -> StepStats:
    """Statistics of several engines as of one; a cache that they share counts once."""
    parts = [engine.stats() for engine in engines]
    if len(parts) == 1:
        return parts[0]
    names = [field.name for field in dataclasses.fields(StepStats)]
    total = StepStats(**{name: sum(getattr(part, name) for part in parts) for name in names})
    capacities = {id(engine.cache): engine.cache.capacity for engine in engines}
    return dataclasses.replace(total, cache_capacity=sum(capacities.values()))


def _for_clients(error: BaseException) -> str:
    """What a client is told of an error of ours: its kind alone."""
    return f"{type(error).__name__}, see the log"
