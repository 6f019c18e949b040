"""Traces of requests, sent to an OpenTelemetry collector where a setting names one.

FastAPI makes the span of the HTTP request and takes over a caller's W3C context. Beneath it hang
one span of the generation, with ``gen_ai.*`` attributes (OpenTelemetry's semantic conventions for
generative AI), and in that queue, prefill and decode. They are made at the request's end from its
timeline, so that nothing is traced while tokens are computed. Prompts and answers are in none.
"""

import dataclasses
import time
from collections.abc import Callable

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Status, StatusCode, Tracer, TracerProvider
from opentelemetry.util.types import AttributeValue

from service.engine.request import FinishReason, GenerationRequest
from service.engine.served_model import Checkpoint
from service.observe.timings import Timeline
from service.version import version

NAME = "nestling"
PHASES = ("queue", "prefill", "decode")
QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/health", "/metrics"})
"""Asked every few seconds by machines; a span of each would bury the others."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ending:
    """What a span says of a request that has ended."""

    route: str
    request_id: str
    """The one that the client knows."""
    request: GenerationRequest
    checkpoint: Checkpoint
    timeline: Timeline
    reason: FinishReason
    num_tokens: int


class Traces:
    """Makes spans and hands them to a provider."""

    def __init__(
        self,
        provider: TracerProvider,
        clock: Callable[[], float],
        shutdown: Callable[[], None] = lambda: None,
    ) -> None:
        self.provider = provider
        self._clock = clock
        self._shutdown = shutdown
        self._tracer: Tracer = provider.get_tracer(NAME, version())

    @staticmethod
    def begin() -> tuple[Context, str | None]:
        """The context of the HTTP request that is being answered; its trace, if it is recorded."""
        of = trace.get_current_span().get_span_context()
        is_recorded = of.trace_flags.sampled
        return context.get_current(), trace.format_trace_id(of.trace_id) if is_recorded else None

    def close(self) -> None:
        """Send what has not been sent."""
        self._shutdown()

    def on_finished(self, parent: Context, ending: Ending) -> None:
        """Send the spans of a request, times taken from its timeline."""
        timeline = ending.timeline
        now_ns, now = time.time_ns(), self._clock()

        def wall(moment: float) -> int:
            """The wall clock's nanoseconds at a reading of the monotonic one."""
            return now_ns - round((now - moment) * 1e9)

        end = now if timeline.finished is None else timeline.finished
        whole = self._tracer.start_span(
            f"{_operation(ending)} {ending.checkpoint.name}",
            parent,
            attributes=_attributes(ending),
            start_time=wall(timeline.arrived),
        )
        within = trace.set_span_in_context(whole, parent)
        moments = (timeline.arrived, timeline.started, timeline.first_token, end)
        for name, start, stop in zip(PHASES, moments[:-1], moments[1:], strict=True):
            if start is not None:
                phase = self._tracer.start_span(name, within, start_time=wall(start))
                phase.end(wall(end if stop is None else stop))
        if ending.reason in (FinishReason.ERROR, FinishReason.TIMEOUT):
            whole.set_attribute("error.type", ending.reason.value)
            whole.set_status(Status(StatusCode.ERROR))
        whole.end(wall(end))


def connect(endpoint: str, clock: Callable[[], float]) -> Traces:
    """Traces to the collector at a base URL, by OTLP over HTTP, from a thread of their own.

    Raises ``ValueError`` where the extra is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider as SdkProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ValueError("otlp_endpoint: it needs pip install 'nestling[traces]'") from error
    resource = Resource.create({"service.name": NAME, "service.version": version()})
    provider = SdkProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Traces(provider, clock, provider.shutdown)


def _operation(ending: Ending) -> str:
    return "chat" if "chat" in ending.route else "text_completion"


def _attributes(ending: Ending) -> dict[str, AttributeValue]:
    request, sampling = ending.request, ending.request.sampling
    return {
        "gen_ai.operation.name": _operation(ending),
        "gen_ai.provider.name": NAME,
        "gen_ai.request.model": ending.checkpoint.run,
        "gen_ai.request.max_tokens": request.max_new_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.response.id": ending.request_id,
        "gen_ai.response.model": ending.checkpoint.name,
        "gen_ai.response.finish_reasons": [ending.reason.value],
        "gen_ai.usage.input_tokens": len(request.prompt_ids),
        "gen_ai.usage.output_tokens": ending.num_tokens,
    }
