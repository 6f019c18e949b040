"""Writers that are killed, for ``test_publish_crash``."""

import itertools
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forked_processes import nurse
from torch import Tensor
from toys import toy_config, toy_details, toy_tokenizer, toy_training_state, toy_weights

from lm.volume import Retention, RunLock, model_files, prune, publish

WEIGHTS: dict[int, dict[str, Tensor]] = {seed: toy_weights(seed) for seed in range(4)}


def die() -> None:
    """End as ``kill -9`` ends a process: no handler, no ``finally``, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def publish_step(run_dir: Path, step: int, on_phase: Callable[[str], object] = str) -> None:
    """Publish a resumable step whose weights come from its number."""
    files = model_files(WEIGHTS[step % len(WEIGHTS)], toy_config(), toy_tokenizer())
    details = toy_details(step, resumable=True)
    publish(run_dir, step, files | toy_training_state(), details, on_phase=on_phase)


def die_at_phase(run_dir: Path, *, step: int, phase: str) -> None:
    """Publish and die when the phase is reached."""
    with RunLock(run_dir):
        publish_step(run_dir, step, lambda now: die() if now == phase else None)


def die_in_the_middle_of_a_file(run_dir: Path, *, step: int) -> None:
    """Publish and die with half a file written."""

    def write_half(path: Path) -> None:
        path.write_bytes(b"half")
        die()

    with RunLock(run_dir):
        files = model_files(WEIGHTS[step % len(WEIGHTS)], toy_config(), toy_tokenizer())
        publish(run_dir, step, files | {"last.json": write_half}, toy_details(step))


def die_in_prune(run_dir: Path, *, before: str, keep_every: int | None) -> None:
    """Prune and die before the first call of ``Path``'s function of this name, or of rmtree."""
    holder: Any = shutil if before == "rmtree" else Path
    setattr(holder, before, lambda *_, **__: die())
    with RunLock(run_dir):
        prune(run_dir, Retention(keep_last=2, keep_every=keep_every))


def publish_for_ever(run_dir: Path, *, first: int) -> None:
    """Publish and prune step after step until somebody ends it."""
    with RunLock(run_dir):
        for step in itertools.count(first):
            publish_step(run_dir, step)
            prune(
                run_dir,
                Retention(keep_last=2, keep_every=5),
                best=random.Random(step).randint(1, step),
            )


WRITERS: dict[str, Callable[..., None]] = {
    writer.__name__: writer
    for writer in (die_at_phase, die_in_the_middle_of_a_file, die_in_prune, publish_for_ever)
}


if __name__ == "__main__":
    nurse(WRITERS)
