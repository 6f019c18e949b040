"""What Prometheus scrapes, named after vLLM's metrics with base units in the suffix.

One registry a service, no globals; ``service.processes.counters`` adds up what HTTP processes
count, where there are any, so that a scrape always sees all of it. Labels have few values, and no
client can make one. Buckets fit a model whose tokens take a millisecond: the first is below what
any request can reach, the last above what any should.
"""

import math
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from service.engine.request import FinishReason, StepStats
from service.engine.served_model import FUSED, ServedModel
from service.observe.timings import Timeline

PREFIX = "nestling"

LATENCY_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
)  # fmt: skip
"""Seconds: TTFT, queue, prefill, decode and whole requests."""

ITL_BUCKETS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.25, 0.5, 1, 2.5,
)  # fmt: skip
"""Seconds between two tokens of a stream."""

TOKEN_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
LAG_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
LOAD_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class RequestMetrics:
    """Latencies, tokens and outcomes of requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def seconds(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"{PREFIX}_{name}_seconds", text, buckets=buckets, registry=registry)

        def tokens(name: str, text: str) -> Histogram:
            return Histogram(f"{PREFIX}_{name}", text, buckets=TOKEN_BUCKETS, registry=registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"{PREFIX}_{name}", text, labels, registry=registry)

        self._ttft = seconds("time_to_first_token", "From arrival to first token.", LATENCY_BUCKETS)
        self._itl = seconds("inter_token_latency", "Between tokens of a stream.", ITL_BUCKETS)
        self._e2e = seconds("e2e_request_latency", "From arrival to the end.", LATENCY_BUCKETS)
        self._queue = seconds("request_queue_time", "Waiting for a slot.", LATENCY_BUCKETS)
        self._prefill = seconds("request_prefill_time", "Slot to first token.", LATENCY_BUCKETS)
        self._decode = seconds("request_decode_time", "First token to last.", LATENCY_BUCKETS)
        self._prompt_size = tokens("request_prompt_tokens", "Prompt tokens of a request.")
        self._output_size = tokens("request_generation_tokens", "Tokens generated for a request.")
        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens of started requests.")
        self._prefix_queries = counter("prefix_cache_queries", "Prompt tokens looked up.")
        self._prefix_hits = counter("prefix_cache_hits", "Prompt tokens that were not computed.")
        self._output_tokens = counter("generation_tokens", "Tokens generated.")
        self._outcomes = counter("requests", "Accepted requests by their end.", ("outcome",))
        self._refused = counter("admission_rejections", "Requests refused, by reason.", ("reason",))
        for reason in FinishReason:
            self._outcomes.labels(outcome=reason.value)

    def on_started(self, timeline: Timeline, num_prompt_tokens: int, num_reused: int) -> None:
        """A request left the queue."""
        self._queue.observe(timeline.queue_s or 0.0)
        self._prompt_tokens.inc(num_prompt_tokens)
        self._prefix_queries.inc(num_prompt_tokens)
        self._prefix_hits.inc(num_reused)

    def on_token(
        self, timeline: Timeline, gap_s: float | None, trace_id: str | None = None
    ) -> None:
        """A request got a token; ``gap_s`` is ``None`` for its first."""
        self._output_tokens.inc()
        if gap_s is not None:
            self._itl.observe(gap_s)
        elif timeline.ttft_s is not None:
            self._ttft.observe(timeline.ttft_s, _exemplar(trace_id))
            self._prefill.observe(timeline.prefill_s or 0.0)

    def on_finished(
        self,
        timeline: Timeline,
        reason: FinishReason,
        num_prompt_tokens: int,
        num_tokens: int,
        trace_id: str | None = None,
    ) -> None:
        """An accepted request ended, however it did."""
        self._outcomes.labels(outcome=reason.value).inc()
        self._e2e.observe(timeline.total_s or 0.0, _exemplar(trace_id))
        self._prompt_size.observe(num_prompt_tokens)
        self._output_size.observe(num_tokens)
        if timeline.decode_s is not None:
            self._decode.observe(timeline.decode_s)

    def on_refused(self, reason: str) -> None:
        """A request was not accepted."""
        self._refused.labels(reason=reason).inc()


class EngineMetrics:
    """State of the engines after their last step."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", text, registry=registry)

        self._running = gauge("num_requests_running", "Requests that hold a slot.")
        self._waiting = gauge("num_requests_waiting", "Requests that wait for a slot.")
        self._cache = gauge("kv_cache_usage_ratio", "Share of the cache's tokens in use.")
        self._drafted = Counter(
            f"{PREFIX}_spec_decode_draft_tokens", "Guesses that were verified.", registry=registry
        )
        self._accepted = Counter(
            f"{PREFIX}_spec_decode_accepted_tokens", "Guesses that were right.", registry=registry
        )
        self._batch = Histogram(
            f"{PREFIX}_batch_size", "Sequences in a step.", buckets=BATCH_BUCKETS, registry=registry
        )

    def on_turn(self, stats: StepStats) -> None:
        """The worker finished a turn."""
        self._running.set(stats.num_running)
        self._waiting.set(stats.num_waiting)
        self._cache.set(stats.num_cached_tokens / max(stats.cache_capacity, 1))
        self._drafted.inc(stats.num_draft_tokens)
        self._accepted.inc(stats.num_accepted_tokens)
        if stats.batch_size:
            self._batch.observe(stats.batch_size)


class CheckpointMetrics:
    """Which checkpoint is served, how old it is, what was swapped and refused."""

    def __init__(self, registry: CollectorRegistry, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._info = Gauge(
            f"{PREFIX}_checkpoint_info",
            "1 for the checkpoint that is served.",
            ("run", "step"),
            registry=registry,
        )
        self._step = Gauge(f"{PREFIX}_checkpoint_step", "Step served.", registry=registry)
        self._age = Gauge(
            f"{PREFIX}_checkpoint_age_seconds",
            "Since the served checkpoint was written.",
            registry=registry,
        )
        self._swaps = Counter(
            f"{PREFIX}_checkpoint_swaps", "Checkpoints put into service.", registry=registry
        )
        self._rejected = Counter(
            f"{PREFIX}_checkpoint_rejected",
            "Checkpoints refused, by reason.",
            ("reason",),
            registry=registry,
        )
        self._resident = Gauge(
            f"{PREFIX}_models_resident",
            "Models in memory: current, named, and those that finish what they began.",
            registry=registry,
        )
        self._readable = Gauge(
            f"{PREFIX}_volume_readable",
            "0 while the served run cannot be looked at.",
            registry=registry,
        )
        self._slots = Gauge(
            f"{PREFIX}_engine_slots",
            "Requests that the served model's cache holds at once, by the memory there was.",
            registry=registry,
        )
        self._fused = Gauge(
            f"{PREFIX}_engine_fused",
            "1 while the fused kernels of a GPU compute what is served; else /version says why.",
            registry=registry,
        )
        self._bits_per_byte = Gauge(
            f"{PREFIX}_checkpoint_probe_bpb",
            "Bits per byte of what is served on the service's probe text; NaN where not measured.",
            registry=registry,
        )
        self._load = Histogram(
            f"{PREFIX}_checkpoint_load_seconds",
            "From opening a step until its model was warm.",
            buckets=LOAD_BUCKETS,
            registry=registry,
        )

    def on_served(self, model: ServedModel) -> None:
        """A model took over."""
        checkpoint = model.checkpoint
        self._info.clear()
        self._info.labels(run=checkpoint.run, step=str(checkpoint.step)).set(1)
        self._step.set(checkpoint.step)
        self._slots.set(model.num_slots)
        self._fused.set(model.backend == FUSED)
        # A clock that was set back must not make a checkpoint younger than now.
        self._age.set_function(lambda: max(0.0, self._wall_clock() - checkpoint.created_at))
        self._bits_per_byte.set(math.nan if model.bits_per_byte is None else model.bits_per_byte)
        self._swaps.inc()

    def on_loaded(self, model: ServedModel) -> None:
        """A model was put into memory."""
        self._load.observe(model.load_s)

    def on_looked(self, *, num_models: int, is_readable: bool) -> None:
        """The volume was looked at."""
        self._resident.set(num_models)
        self._readable.set(is_readable)

    def on_refused(self, reason: str) -> None:
        """A checkpoint was not taken into service."""
        self._rejected.labels(reason=reason).inc()


class FrontMetrics:
    """What the HTTP side of a service measures."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = RequestMetrics(self._registry)
        self.loop_lag = Histogram(
            f"{PREFIX}_event_loop_lag_seconds",
            "How late the event loop wakes up.",
            buckets=LAG_BUCKETS,
            registry=self._registry,
        )
        self._log_dropped = Counter(
            f"{PREFIX}_log_lines_dropped",
            "Lines of the log that nobody read in time, and that are lost.",
            registry=self._registry,
        )
        self._thread_failures = Counter(
            f"{PREFIX}_thread_failures",
            "What threads and lasting tasks caught at their roots; the log has the tracebacks.",
            ("thread",),
            registry=self._registry,
        )

    def on_log_dropped(self, num_lines: int) -> None:
        """Lines of the log are lost."""
        self._log_dropped.inc(num_lines)

    def on_thread_failure(self, name: str) -> None:
        """A thread or a lasting task failed, or ended unasked."""
        self._thread_failures.labels(thread=name).inc()

    def on_step(self, stats: StepStats) -> None:
        """The worker finished a turn; whoever is beside the engine measures it."""


class Metrics(FrontMetrics):
    """All metrics of one service."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        super().__init__()
        self.engine = EngineMetrics(self._registry)
        self.checkpoints = CheckpointMetrics(self._registry, wall_clock)

    def on_step(self, stats: StepStats) -> None:
        """The worker finished a turn."""
        self.engine.on_turn(stats)

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return self.scrape("")[0]

    def scrape(self, accept: str) -> tuple[bytes, str]:
        """Everything in the format that an ``Accept`` header asks for, and its content type.

        OpenMetrics, which alone has exemplars, or by default Prometheus' text.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def _exemplar(trace_id: str | None) -> dict[str, str] | None:
    """Leads from a bucket to the trace of the last request in it."""
    return None if trace_id is None else {"trace_id": trace_id}
