"""How a run went so far: what its trainer wrote beside the steps, and when steps took over here.

The trainer's journals are only looked at: a line that is cut short, or that is not what a trainer
writes, is left out. What was read of a journal is kept, thinned to what a picture needs, and only
what was appended since is read. What took over is remembered by this process alone.
"""

import collections
import dataclasses
import errno
import threading
from collections.abc import Callable
from pathlib import Path

from lm.plain_file import NotPlain
from service.engine.served_model import ServedModel
from service.models.journal import Curve, Evaluation, Sample, Tail, Training

METRICS_FILE, SAMPLES_FILE = "metrics.jsonl", "samples.jsonl"
MAX_POINTS = 500
MAX_SAMPLES = 200
MAX_SWAPS = 1000
MAX_RUNS = 16
"""Whose journals' contents are kept, those asked for last."""
_NO_JOURNAL = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV}
"""Error numbers of what is no journal: nothing, a link, a socket, a device."""


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

    training: list[Training]
    evaluations: list[Evaluation]
    samples: list[Sample]
    """The newest ones."""


class _Run:
    """What was read of one run's journals."""

    def __init__(self, run_dir: Path) -> None:
        self.lock = threading.Lock()
        self._metrics = Tail(run_dir / METRICS_FILE)
        self._samples = Tail(run_dir / SAMPLES_FILE)
        self._forget_metrics()
        self._newest: collections.deque[Sample] = collections.deque(maxlen=MAX_SAMPLES)

    def read(self) -> History:
        """Read what was appended; raises ``OSError`` if that fails just now."""
        _follow(self._metrics, self._forget_metrics, self._hear_metrics)
        _follow(self._samples, self._newest.clear, self._hear_sample)
        return History(self._training.points, self._evaluations.points, list(self._newest))

    def _forget_metrics(self) -> None:
        self._training: Curve[Training] = Curve(MAX_POINTS)
        self._evaluations: Curve[Evaluation] = Curve(MAX_POINTS)

    def _hear_metrics(self, line: dict[str, object]) -> None:
        if line.get("kind") == "train" and (point := Training.of(line)) is not None:
            self._training.append(point)
        elif line.get("kind") == "evaluation" and (measured := Evaluation.of(line)) is not None:
            self._evaluations.append(measured)

    def _hear_sample(self, line: dict[str, object]) -> None:
        if (sample := Sample.of(line)) is not None:
            self._newest.append(sample)


class Histories:
    """Histories of the runs of a volume; any thread may ask."""

    def __init__(self) -> None:
        self._runs: collections.OrderedDict[Path, _Run] = collections.OrderedDict()
        self._lock = threading.Lock()

    def read(self, run_dir: Path) -> History:
        """A run's history; empty where there are no journals.

        Raises ``OSError`` if one cannot be read just now.
        """
        with self._lock:
            run = self._runs.setdefault(run_dir, _Run(run_dir))
            self._runs.move_to_end(run_dir)
            while len(self._runs) > MAX_RUNS:
                self._runs.popitem(last=False)
        with run.lock:
            return run.read()


def _follow(
    tail: Tail, forget: Callable[[], object], hear: Callable[[dict[str, object]], object]
) -> None:
    """Take in what a journal has more than before; what is no journal is an empty one."""
    try:
        is_new, lines = tail.read()
    except OSError as error:
        if not isinstance(error, NotPlain) and error.errno not in _NO_JOURNAL:
            raise
        is_new, lines = True, []
    if is_new:
        forget()
    for line in lines:
        hear(line)
