"""How a run went so far: what its trainer wrote beside the steps, and when steps took over here.

The trainer's journals are only looked at: a line that is cut short or of a kind that is not known
is left out. What took over is remembered by this process alone.
"""

import collections
import dataclasses
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from service.engine.served import ServedModel

T = TypeVar("T")
METRICS_FILE, SAMPLES_FILE = "metrics.jsonl", "samples.jsonl"
MAX_BYTES = 16 << 20
"""Of a journal, from its end."""
MAX_POINTS = 500
MAX_SAMPLES = 200
MAX_SWAPS = 1000


@dataclasses.dataclass(frozen=True)
class Swap:
    """A checkpoint that new requests went to from some moment on."""

    run: str
    step: int
    at: float
    """Seconds since the epoch."""


class Swaps:
    """What took over since this process began; written by one thread, read by any."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._swaps: collections.deque[Swap] = collections.deque(maxlen=MAX_SWAPS)
        self._lock = threading.Lock()

    def on_served(self, model: ServedModel) -> None:
        """Remember that this model took over just now."""
        checkpoint = model.checkpoint
        with self._lock:
            self._swaps.append(Swap(checkpoint.run, checkpoint.step, self._wall_clock()))

    def of(self, run: str) -> list[Swap]:
        """Those of one run, in order."""
        with self._lock:
            return [swap for swap in self._swaps if swap.run == run]


@dataclasses.dataclass(frozen=True)
class History:
    """Points by step, ascending, thinned to what a picture needs."""

    training: list[tuple[int, float | None]]
    """Step and loss, nats a token."""
    evaluations: list[tuple[int, float | None, float | None]]
    """Step, held-out loss and bits per byte."""
    samples: list[tuple[int, str, str]]
    """Step, prompt and what the model made of it; the newest ones."""


def read_history(run_dir: Path) -> History:
    """Read a run's journals; empty where there are none."""
    training, evaluations = [], []
    for line in _lines(run_dir / METRICS_FILE):
        if line.get("kind") == "train":
            training.append((line["step"], line["loss"]))
        elif line.get("kind") == "evaluation":
            evaluations.append((line["step"], line["validation_loss"], line["bits_per_byte"]))
    samples = [(one["step"], one["prompt"], one["text"]) for one in _lines(run_dir / SAMPLES_FILE)]
    return History(_thinned(training), _thinned(evaluations), samples[-MAX_SAMPLES:])


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of the end of a journal that have a step."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):  # a pipe might never end
            return
        size = status.st_size
        file.seek(max(0, size - MAX_BYTES))
        content = file.read(MAX_BYTES)
    for text in content.split(b"\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            yield line


def _thinned(points: Sequence[T]) -> list[T]:
    """Evenly chosen ones, the last always among them."""
    stride = -(-len(points) // MAX_POINTS) or 1
    return list(points[::-1][::stride][::-1])
