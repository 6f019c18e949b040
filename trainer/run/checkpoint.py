"""Publishes snapshots beside the training loop, which waits for the copy alone.

One step is written at a time, in a thread of its own; the next snapshot is taken, over the same
memory, when that is done, and a wait for it is part of the stall that is reported. A periodic
write that fails (a full disk) is reported and training goes on, for every older step is still
there; the last one raises.
"""

import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import safetensors

from lm.machine.threads import Roots
from lm.model.config import ModelConfig
from lm.text.tokenizer import Tokenizer
from lm.volume import Retention, VolumeError, model_files, prune, publish
from trainer.run.snapshot import Snapshot
from trainer.run.state import state_files


@dataclasses.dataclass(frozen=True)
class Written:
    """How the writing of one step went."""

    step: int
    seconds: float
    """From the start of the write to its end, in the background."""
    error: Exception | None
    """Why it failed, if it did."""


class Checkpointer:
    """Writes snapshots of one run into its directory, whose lock the caller holds."""

    def __init__(
        self,
        run_dir: Path,
        retention: Retention,
        *,
        keep_best: bool,
        model_config: ModelConfig,
        tokenizer: Tokenizer,
        on_written: Callable[[Written], None],
        roots: Roots | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._model_config = model_config
        self._tokenizer = tokenizer
        self._retention = retention
        self._keep_best = keep_best
        self._on_written = on_written
        self._roots = roots or Roots()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[Written] | None = None
        self._lock = threading.RLock()
        """The rescuing thread may save while the loop's own is about to."""

    @property
    def is_writing(self) -> bool:
        """Whether a snapshot is still being written."""
        return self._pending is not None and not self._pending.done()

    def save(self, take: Callable[[], Snapshot]) -> None:
        """Take a snapshot once the one before is written, and hand it to the writing thread."""
        with self._lock:
            self.collect()
            self._pending = self._executor.submit(self._write, take())

    def poll(self) -> None:
        """Report a write that has ended, without waiting for one that has not."""
        if not self.is_writing:
            self.collect()

    def collect(self) -> Written | None:
        """Wait for the write under way and report it; ``None`` if there was none."""
        with self._lock:
            pending, self._pending = self._pending, None
            if pending is None:
                return None
            written = pending.result()
        self._on_written(written)
        return written

    def finish(self) -> None:
        """Wait for the write under way; raises ``OSError`` if it failed."""
        written = self.collect()
        if written is not None and written.error is not None:
            reason = str(written.error) or type(written.error).__name__
            raise OSError(f"step {written.step} could not be saved: {reason}")

    def _write(self, snapshot: Snapshot) -> Written:
        started = time.perf_counter()
        error: Exception | None = None
        try:
            snapshot.wait()
            writers = model_files(snapshot.weights, self._model_config, self._tokenizer)
            writers |= state_files(snapshot.state, snapshot.moments)
            publish(self._run_dir, snapshot.step, writers, snapshot.details)
            prune(self._run_dir, self._retention, keep_best=self._keep_best)
        except (OSError, MemoryError, VolumeError, safetensors.SafetensorError) as failure:
            error = failure
        except BaseException as failure:  # a mistake of ours, which ends the run with a traceback
            self._roots.failed("checkpoint", failure)
            if isinstance(failure, Exception):
                raise
            raise RuntimeError(f"{type(failure).__name__} in the writing thread") from failure
        return Written(snapshot.step, time.perf_counter() - started, error)
