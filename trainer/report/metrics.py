"""The trainer's own ``/metrics`` for Prometheus: what a run does, base units in the suffix.

One registry a process, no globals. What was not measured yet is NaN, which no alert matches.
Counters are of this process: a resumed run begins anew at 0, as after any restart.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from lm.machine.threads import Roots
from trainer.report.events import Began, Evaluated, Event, Published, Skipped, Snapshotted, Trained
from trainer.report.memory import resident_bytes

PREFIX = "nestling_trainer"
STALL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Seconds: from copying a toy to waiting for the write before."""
WRITE_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""Seconds: from a toy in memory to gigabytes on a slow disk."""

GAUGES = {
    "step": "Newest step that is known of, in the recipe's unit.",
    "loss": "Training loss of the last logged step, nats a token.",
    "loss_average": "Running average of the training loss, nats a token.",
    "learning_rate": "Learning rate of the parameters that AdamW updates.",
    "tokens_per_second": "Training tokens a second; evaluation and saving are not in it.",
    "peak_ratio": "Share of the measured peak of matrix products that training reaches.",
    "validation_loss": "Loss on held-out text, nats a token.",
    "validation_bpb": "Bits per byte of held-out text.",
    "gap": "Validation loss minus the running average of the training loss, nats a token.",
    "memorising": "1 while validation loss rises and training loss falls, else 0.",
    "checkpoint_step": "Newest step that was published.",
    "resident_memory_bytes": "Physical memory of the process.",
    "gpu_memory_bytes": "Memory that PyTorch holds on the GPU.",
}


class Metrics:
    """Hears a run and keeps its figures for scrapes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str) -> Counter:
            return Counter(f"{PREFIX}_{name}", text, registry=self.registry)

        def seconds(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            name = f"{PREFIX}_{name}_seconds"
            return Histogram(name, text, buckets=buckets, registry=self.registry)

        self._gauges = {
            name: Gauge(f"{PREFIX}_{name}", text, registry=self.registry)
            for name, text in GAUGES.items()
        }
        self._set(dict.fromkeys(GAUGES))
        self._gauges["resident_memory_bytes"].set_function(resident_bytes)
        self._tokens = counter("tokens", "Tokens trained on by this process.")
        self._skipped = counter("steps_skipped", "Steps whose loss or gradient was not finite.")
        self._thread_failures = Counter(
            f"{PREFIX}_thread_failures",
            "What threads caught at their roots; the log has the tracebacks.",
            ("thread",),
            registry=self.registry,
        )
        self._failures = counter("checkpoint_failures", "Checkpoints that could not be written.")
        self._stall = seconds(
            "checkpoint_stall", "Training stood still for a checkpoint.", STALL_BUCKETS
        )
        self._write = seconds(
            "checkpoint_write", "A checkpoint was written, beside the training.", WRITE_BUCKETS
        )
        self._tokens_seen = 0

    def hear(self, event: Event) -> None:
        """Bring the figures up to date."""
        match event:
            case Began():
                self._began(event)
            case Trained():
                self._trained(event)
            case Skipped():
                self._skipped.inc()
                self._set({"step": event.step})
            case Evaluated():
                self._set(
                    {
                        "validation_loss": event.validation_loss,
                        "validation_bpb": event.bits_per_byte,
                        "gap": event.gap,
                        "memorising": event.memorising,
                    }
                )
            case Snapshotted():
                self._stall.observe(event.stall_s)
            case Published(error=None):
                self._write.observe(event.write_s)
                self._set({"checkpoint_step": event.step})
            case Published():
                self._failures.inc()

    def on_thread_failure(self, name: str) -> None:
        """A thread failed, or ended unasked."""
        self._thread_failures.labels(thread=name).inc()

    def _began(self, event: Began) -> None:
        counters = event.counters
        self._tokens_seen = counters.tokens_seen
        self._set(
            {
                "step": event.step,
                "loss_average": counters.loss_average,
                "validation_loss": counters.validation_loss,
                "validation_bpb": counters.bits_per_byte,
                "memorising": counters.is_memorising,
                "checkpoint_step": event.step or None,
            }
        )

    def _trained(self, event: Trained) -> None:
        self._tokens.inc(event.tokens_seen - self._tokens_seen)
        self._tokens_seen = event.tokens_seen
        self._set(
            {
                "step": event.step,
                "loss": event.loss,
                "loss_average": event.loss_average,
                "learning_rate": event.learning_rate,
                "tokens_per_second": event.tokens_per_s,
                "peak_ratio": event.share_of_peak,
                "gpu_memory_bytes": event.gpu_bytes,
            }
        )

    def _set(self, values: Mapping[str, float | None]) -> None:
        for name, value in values.items():
            self._gauges[name].set(math.nan if value is None else value)


@contextlib.contextmanager
def serve(metrics: Metrics, host: str, port: int, roots: Roots) -> Iterator[None]:
    """Answer scrapes from a thread while the context lasts; raises ``ValueError`` if it cannot."""
    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except OSError as error:
        raise ValueError(f"metrics on {host}:{port}: {error.strerror}") from error
    server.shutdown()  # of a thread that nothing guards
    thread.join()
    guarded = roots.thread("metrics", server.serve_forever, matters=False, again=True)
    roots.on_failure = metrics.on_thread_failure
    guarded.start()
    try:
        yield
    finally:
        guarded.leave()
        server.shutdown()
        guarded.join()
        server.server_close()
