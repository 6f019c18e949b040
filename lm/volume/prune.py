"""Removes steps that retention gives up, and what dead writers left behind.

A step is first renamed to ``.trash-…``, so that a reader sees it whole or not at all.
"""

import os
import shutil
from pathlib import Path

from lm.volume.manifest import MANIFEST_FILE, TRAINING_STATE_PREFIX, step_name, step_number
from lm.volume.publish import BAD_PREFIX, TMP_PREFIX, seal, sync
from lm.volume.read import Step, by_loss, list_steps
from lm.volume.retention import Retention, steps_to_keep

TRASH_PREFIX = ".trash-"


def prune(run_dir: Path, retention: Retention, *, keep_best: bool = False) -> list[int]:
    """Delete the steps that retention does not keep; returns their numbers.

    One look at the run says which is the best and which go: a step that could not be read in it
    is neither counted nor deleted. ``keep_best`` keeps the one with the lowest validation loss.
    Milestones lose their training state. A damaged step that was moved aside stays for a look
    until the newest ``keep_last`` are all past it. The caller holds the run's lock.
    """
    steps = {step.number: step for step in list_steps(run_dir)}
    numbers = sorted(steps)
    best = next((step.number for step in by_loss(steps.values())), None) if keep_best else None
    kept = steps_to_keep(numbers, best, retention)
    for number in kept.milestones:
        _strip(steps[number])
    removed = [number for number in numbers if number not in kept.full | kept.milestones]
    for number in removed:
        _remove(run_dir / step_name(number))
    oldest = numbers[-retention.keep_last] if len(numbers) >= retention.keep_last else 0
    for path in run_dir.glob(f"{BAD_PREFIX}*"):
        moved = step_number(path.name.removeprefix(BAD_PREFIX).rpartition("-")[0])
        if moved is not None and moved < oldest:
            _remove(path)
    if removed:
        sync(run_dir)
    return removed


def sweep(run_dir: Path) -> list[str]:
    """Delete unfinished and half-deleted directories; returns their names.

    The caller holds the run's lock, so whoever began them is gone.
    """
    leftovers = [
        path for path in run_dir.iterdir() if path.name.startswith((TMP_PREFIX, TRASH_PREFIX))
    ]
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in leftovers]


def _remove(path: Path) -> None:
    trash = path.with_name(f"{TRASH_PREFIX}{path.name}-{os.getpid()}")
    path.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _strip(step: Step) -> None:
    """Reduce a step to its weights: first the manifest forgets the state, then it is deleted."""
    reduced = step.manifest.without_training_state()
    if reduced != step.manifest:
        draft = step.path / f"{TMP_PREFIX}{MANIFEST_FILE}"
        draft.write_text(reduced.to_json(), "utf-8")
        seal(draft)
        draft.replace(step.path / MANIFEST_FILE)
        sync(step.path)
    for path in step.path.glob(f"{TRAINING_STATE_PREFIX}*"):  # also a killed strip's leftovers
        path.unlink()
