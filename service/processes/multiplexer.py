"""Where all HTTP processes' requests meet the one worker, and its events part for them.

Requests are known here from their acceptance until their end, so that the limits hold over all
HTTP processes together. ``on_turn`` is called in the worker's thread and writes to the sockets
itself: no other thread has to wake up, or wait for the interpreter's lock, before tokens leave.
"""

import collections
import dataclasses
import logging
import threading
from collections.abc import Sequence
from typing import Protocol

from service.engine.request import Finished, FinishReason, GenerationRequest, Started
from service.engine.request_faults import failed
from service.engine.served_model import ModelCard, ServedModel
from service.engine.worker import Turn, Worker
from service.observe.metrics import Metrics
from service.observe.timings import Timeline
from service.processes.wire.frames import Kind, frame
from service.processes.wire.turns import TurnWriter
from service.requests.limits import Admission

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """One HTTP process, as the hub sees it."""

    @property
    def is_open(self) -> bool:
        """Whether it still listens."""
        ...

    def send(self, frame: bytes) -> None:
        """Send it a frame; from any thread."""
        ...


@dataclasses.dataclass
class Opened:
    """An accepted request."""

    listener: Listener
    number: int
    """As its HTTP process calls it."""
    client: str
    request: GenerationRequest
    fingerprint: str
    started: float | None = None


class Hub:
    """All accepted requests of all HTTP processes."""

    def __init__(self, metrics: Metrics, admission: Admission, worker: Worker) -> None:
        self._metrics = metrics
        self._admission = admission
        self._worker = worker
        self._lock = threading.Lock()
        """Of what follows, and of the admission: the loop opens, the worker's thread ends."""
        self._opened: dict[str, Opened] = {}
        self._open_on: collections.Counter[str] = collections.Counter()

    def num_open_on(self, model: ModelCard) -> int:
        """Requests that a model answers; any thread may ask."""
        return self._open_on[model.checkpoint.fingerprint]

    def submit(self, model: ServedModel, requests: Sequence[Opened]) -> None:
        """Queue all of these, which are of one client, or raise because of the limits."""
        client = requests[0].client
        num_tokens = sum(one.request.num_tokens for one in requests)
        with self._lock:
            self._admission.check(client, num_tokens, len(requests))
            for one in requests:
                self._opened[one.request.request_id] = one
                self._open_on[one.fingerprint] += 1
                self._admission.on_opened(client, one.request.num_tokens)
        for one in requests:
            self._worker.submit(model, one.request)

    def abort_all_of(self, listener: Listener) -> None:
        """End the requests of an HTTP process that is gone."""
        with self._lock:
            names = [name for name, one in self._opened.items() if one.listener is listener]
        for name in names:
            self._worker.abort(name)

    def on_turn(self, turn: Turn) -> None:
        """Send each HTTP process what the worker's turn brought it; in the worker's thread."""
        self._metrics.on_step(turn.stats)
        if not turn.events:
            return
        writers: dict[int, tuple[Listener, TurnWriter]] = {}
        opened = self._opened
        for event in turn.events:
            one = opened[event.request_id]
            key = id(one.listener)
            if key not in writers:
                writers[key] = (one.listener, TurnWriter())
            try:
                writers[key][1].add(one.number, event)
            except Exception as error:  # of one request: those of the others are still to come
                if event.is_final:
                    writers[key][1].add(one.number, failed(event.request_id, error))
                else:
                    logger.exception("an event could not be handed out; its request is ended")
                    self._worker.abort(event.request_id, FinishReason.ERROR)
            if isinstance(event, Started):
                self._on_started(one, turn.began_at)
            elif isinstance(event, Finished):
                self._on_finished(one, event.reason, turn.at)
        for listener, writer in writers.values():
            listener.send(frame(Kind.TURN, writer.payload(turn.began_at, turn.at)))

    def _on_started(self, one: Opened, at: float) -> None:
        one.started = at
        with self._lock:
            self._admission.on_started(one.request.num_tokens)

    def _on_finished(self, one: Opened, reason: FinishReason, at: float) -> None:
        service_s = None if one.started is None else at - one.started
        with self._lock:
            del self._opened[one.request.request_id]
            self._open_on[one.fingerprint] -= 1
            self._admission.on_ended(one.client, one.request.num_tokens, service_s)
        if not one.listener.is_open:  # who would count this end is gone
            timeline = Timeline(at if one.started is None else one.started, finished=at)
            num_prompt_tokens = len(one.request.prompt_ids)
            self._metrics.requests.on_finished(timeline, reason, num_prompt_tokens, 0)
