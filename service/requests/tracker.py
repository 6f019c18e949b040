"""From the worker's thread to the coroutine that answers a client.

Each accepted request has one ``Reply``: an async stream of its events. Whoever stops listening
early, for whatever reason, closes the reply, which aborts the request: nobody's leaving leaves
work behind.
"""

import asyncio
import collections
import itertools
import logging
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeVar

from opentelemetry.context import Context

from service.engine.request import (
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    PromptScored,
    Started,
    StepStats,
    TokenGenerated,
)
from service.engine.served_model import ModelCard
from service.engine.worker import Turn
from service.observe.metrics import FrontMetrics
from service.observe.timings import Timeline
from service.observe.traces import Ending, Traces
from service.requests.limits import Admission
from service.requests.request_start import ANYBODY, Arrival

logger = logging.getLogger(__name__)


ReplyEvent = PromptScored | TokenGenerated | Finished

ModelT_contra = TypeVar("ModelT_contra", bound=ModelCard, contravariant=True)


class Submits(Protocol[ModelT_contra]):
    """Takes requests to the engine: the worker, or what leads to the process that has it."""

    def submit(self, model: ModelT_contra, request: GenerationRequest) -> None:
        """Queue a request on a model."""
        ...

    def abort(self, request_id: str) -> None:
        """End a request before the next step; nothing if it has already ended."""
        ...


class Reply:
    """Events of one request as they come."""

    def __init__(
        self,
        request: GenerationRequest,
        model: ModelCard,
        arrival: Arrival,
        abort: Callable[[], None],
        inbox: asyncio.Queue[ReplyEvent] | None = None,
    ) -> None:
        self.request = request
        self.model = model
        self.arrival = arrival
        self.timeline = Timeline(arrival.at)
        self.num_tokens = 0
        self.trace: Context | None = None
        self.trace_id: str | None = None
        self.is_finished = False
        self.is_client_gone = False
        self._is_closed = False
        self._abort = abort
        self._events = asyncio.Queue() if inbox is None else inbox
        """Of this request, and of others that share the inbox."""

    def deliver(self, event: ReplyEvent) -> None:
        """Hand over an event; called in the event loop."""
        self._events.put_nowait(event)

    @property
    def has_event(self) -> bool:
        """Whether the next event is there already."""
        return not self._events.empty()

    async def next_event(self, timeout_s: float | None = None) -> ReplyEvent | None:
        """The next event; ``None`` if none came in time."""
        if not self._events.empty():
            return self._events.get_nowait()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._events.get()
        except TimeoutError:
            return None

    def close(self) -> None:
        """Stop listening; a request that has not ended is aborted before the next step."""
        if not (self.is_finished or self._is_closed):
            self._is_closed = True
            self._abort()

    def __enter__(self) -> Self:
        """Listen until the block ends."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """See ``close``; whom nobody had closed before, nobody listens to any more."""
        self.is_client_gone = not (self.is_finished or self._is_closed)
        self.close()


class Switchboard:
    """All open replies: opens them, delivers events to them, observes their metrics."""

    def __init__(
        self, metrics: FrontMetrics, admission: Admission, traces: Traces | None = None
    ) -> None:
        self._metrics = metrics
        self._admission = admission
        self._traces = traces
        self._replies: dict[str, Reply] = {}
        self._open_on: collections.Counter[str] = collections.Counter()
        self._failed: set[str] = set()
        """Requests whose reply has ended here, before the engine has said so."""
        self._numbers = itertools.count(1)

    @property
    def num_open(self) -> int:
        """Accepted requests that have not ended."""
        return len(self._replies)

    def num_open_on(self, model: ModelCard) -> int:
        """Those that a model answers; any thread may ask."""
        return self._open_on[model.checkpoint.fingerprint]

    def check(self, requests: Sequence[GenerationRequest], arrival: Arrival) -> None:
        """Raise unless all of these may be accepted now."""
        num_tokens = sum(request.num_tokens for request in requests)
        self._admission.check(arrival.client, num_tokens, len(requests))

    def own_id(self, request_id: str) -> str:
        """An id for the engine: the one of the answer may be a client's, who may use it again."""
        return f"{request_id}#{next(self._numbers)}"

    def open(
        self,
        worker: Submits[ModelT_contra],
        model: ModelT_contra,
        request: GenerationRequest,
        arrival: Arrival,
        inbox: asyncio.Queue[ReplyEvent] | None = None,
    ) -> Reply:
        """Submit a request and listen to it; raises if it may not be accepted now."""
        self._admission.check(arrival.client, request.num_tokens)
        reply = Reply(request, model, arrival, lambda: worker.abort(request.request_id), inbox)
        if self._traces is not None:
            reply.trace, reply.trace_id = self._traces.begin()
        self._replies[request.request_id] = reply
        self._open_on[model.checkpoint.fingerprint] += 1
        self._admission.on_opened(arrival.client, request.num_tokens)
        worker.submit(model, request)
        return reply

    def withdraw(self, reply: Reply) -> None:
        """Forget a request that the engine's process did not accept: it was none."""
        reply.is_finished = True
        del self._replies[reply.request.request_id]
        self._open_on[reply.model.checkpoint.fingerprint] -= 1
        self._admission.on_ended(reply.arrival.client, reply.request.num_tokens, None)

    def abort_all(self) -> None:
        """End every open request before the next step; their clients are told."""
        for reply in self._replies.values():
            reply.close()

    def fail_all(self, now: float) -> None:
        """End every open request here: nothing more comes from the engine."""
        message = "the engine has ended"
        ends: list[Event] = [
            Finished(name, FinishReason.ERROR, message=message) for name in self._replies
        ]
        self.on_turn(Turn(ends, now, now, StepStats()))

    def on_turn(self, turn: Turn) -> None:
        """Deliver what one turn of the worker brought; called in the event loop."""
        self._metrics.on_step(turn.stats)
        left = collections.Counter(
            event.request_id for event in turn.events if isinstance(event, TokenGenerated)
        )
        for event in turn.events:
            reply = self._replies.get(event.request_id)
            if reply is None and event.request_id in self._failed:
                if event.is_final:
                    self._failed.discard(event.request_id)
                continue
            assert reply is not None, "a request has events only until it ends"
            try:
                self._observe(reply, event, turn, left)
                if not isinstance(event, Started):
                    reply.deliver(event)
            except Exception:  # of one reply: those of the others are still to come
                logger.exception("a reply failed alone")
                self._fail(reply, has_ended=event.is_final)

    def fail(self, request_id: str) -> None:
        """End a reply that cannot go on here; nothing if it has ended."""
        reply = self._replies.get(request_id)
        if reply is not None:
            self._fail(reply, has_ended=False)

    def _fail(self, reply: Reply, *, has_ended: bool) -> None:
        """End a reply; what the engine still says of its request, if anything, is for nobody."""
        name = reply.request.request_id
        if self._replies.pop(name, None) is not None:
            self._open_on[reply.model.checkpoint.fingerprint] -= 1
            client, num_tokens = reply.arrival.client, reply.request.num_tokens
            service_s = None if reply.timeline.started is None else 0.0
            self._admission.on_ended(client, num_tokens, service_s)
        if not has_ended:
            self._failed.add(name)
            reply.close()
        reply.is_finished = True
        message = "what the engine said could not be handed out, see the log"
        reply.deliver(Finished(name, FinishReason.ERROR, message=message))

    def _observe(
        self, reply: Reply, event: Event, turn: Turn, left: collections.Counter[str]
    ) -> None:
        """Record what an event says; ``left`` counts each request's tokens still to come."""
        metrics = self._metrics.requests
        timeline = reply.timeline
        num_prompt_tokens = len(reply.request.prompt_ids)
        match event:
            case Started():
                timeline.started = turn.began_at
                metrics.on_started(timeline, num_prompt_tokens, event.num_reused)
                self._admission.on_started(reply.request.num_tokens)
            case TokenGenerated():
                reply.num_tokens += 1
                gap_s = timeline.on_token(turn.at, left[event.request_id])
                left[event.request_id] -= 1
                metrics.on_token(timeline, gap_s, reply.trace_id)
            case Finished():
                timeline.finished = turn.at
                reply.is_finished = True
                del self._replies[event.request_id]
                self._open_on[reply.model.checkpoint.fingerprint] -= 1
                metrics.on_finished(
                    timeline, event.reason, num_prompt_tokens, reply.num_tokens, reply.trace_id
                )
                service_s = None if timeline.started is None else turn.at - timeline.started
                client = reply.arrival.client
                self._admission.on_ended(client, reply.request.num_tokens, service_s)
                self._tell(reply, event)

    def _tell(self, reply: Reply, event: Finished) -> None:
        """Log and trace how a request ended."""
        _log(reply, event)
        if self._traces is not None and reply.trace is not None:
            ending = Ending(
                route=reply.arrival.route,
                request_id=reply.arrival.request_id,
                request=reply.request,
                checkpoint=reply.model.checkpoint,
                timeline=reply.timeline,
                reason=event.reason,
                num_tokens=reply.num_tokens,
            )
            self._traces.on_finished(reply.trace, ending)


def _log(reply: Reply, event: Finished) -> None:
    """One line a request; never what it says."""
    timeline = reply.timeline
    fields: dict[str, object] = {
        "id": reply.arrival.request_id,
        "route": reply.arrival.route,
        "model": reply.model.checkpoint.name,
        "prompt_tokens": len(reply.request.prompt_ids),
        "generated_tokens": reply.num_tokens,
        "queue_s": timeline.queue_s,
        "ttft_s": timeline.ttft_s,
        "total_s": timeline.total_s,
        "outcome": event.reason.value,
        "client_gone": reply.is_client_gone,
    }
    if reply.arrival.client != ANYBODY:
        fields["client"] = reply.arrival.client
    if reply.trace_id is not None:
        fields["trace_id"] = reply.trace_id
    logger.info("request ended", extra={"fields": fields})
