"""A writer may die at any moment, by ``kill -9``: the volume stays whole.

After every death a reader finds only complete steps, the old ones among them, and a new writer
takes the lock, clears away and publishes again. The writers are real processes.
"""

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked_processes import Nursery
from toys import publish_toy, toy_config, toy_details, toy_tokenizer, toy_weights
from toys.damage import truncate

from lm.volume import (
    Retention,
    RunLock,
    StepVanished,
    list_steps,
    load_weights,
    model_files,
    newest_step,
    open_step,
    prune,
    publish,
    sweep,
    verify,
)
from lm.volume.publish import PHASES

VISIBLE_PHASES = PHASES[PHASES.index("renamed") :]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery.of(Path(__file__).with_name("crashing_writer.py")) as nursery:
        yield nursery


def whole_steps(run_dir: Path) -> list[int]:
    """Numbers of the steps that a reader finds; each must verify to the last byte."""
    steps = list_steps(run_dir)
    for step in steps:
        verify(step)
    return [step.number for step in steps]


def newest_number(run_dir: Path) -> int | None:
    step = newest_step(run_dir)
    return step.number if step else None


def names(run_dir: Path) -> set[str]:
    return {path.name for path in run_dir.iterdir()}


def recover(run_dir: Path, step: int) -> None:
    """What the next writer does: take the lock, clear away, publish, prune."""
    with RunLock(run_dir):
        sweep(run_dir)
        assert not [name for name in names(run_dir) if name.startswith((".tmp-", ".trash-"))]
        files = model_files(toy_weights(9), toy_config(), toy_tokenizer())
        verify(publish(run_dir, step, files, toy_details(step)))
        prune(run_dir, Retention(keep_last=2))
    assert newest_number(run_dir) == step


@pytest.mark.parametrize("phase", PHASES)
def test_a_writer_killed_at_any_phase_leaves_the_old_steps_or_the_new_one(
    nursery: Nursery, tmp_path: Path, phase: str
) -> None:
    publish_toy(tmp_path, "run", 1)
    nursery.start("die_at_phase", tmp_path / "run", step=2, phase=phase)
    assert nursery.wait() == -signal.SIGKILL
    is_there = phase in VISIBLE_PHASES
    assert whole_steps(tmp_path / "run") == ([1, 2] if is_there else [1])
    assert open_step(tmp_path / "run", load_weights) is not None
    recover(tmp_path / "run", 2)
    assert names(tmp_path / "run") == {".lock", "step-00000001", "step-00000002"}
    recover(tmp_path / "run", 3)
    assert whole_steps(tmp_path / "run") == [2, 3]


@pytest.mark.parametrize("phase", PHASES)
def test_a_first_step_is_there_or_not(nursery: Nursery, tmp_path: Path, phase: str) -> None:
    nursery.start("die_at_phase", tmp_path / "run", step=1, phase=phase)
    assert nursery.wait() == -signal.SIGKILL
    assert whole_steps(tmp_path / "run") == ([1] if phase in VISIBLE_PHASES else [])
    recover(tmp_path / "run", 1)


@pytest.mark.parametrize("phase", PHASES)
def test_a_writer_killed_while_it_replaces_a_broken_step_harms_no_other(
    nursery: Nursery, tmp_path: Path, phase: str
) -> None:
    publish_toy(tmp_path, "run", 1)
    truncate(publish_toy(tmp_path, "run", 2).path)
    nursery.start("die_at_phase", tmp_path / "run", step=2, phase=phase)
    assert nursery.wait() == -signal.SIGKILL
    assert whole_steps(tmp_path / "run") == ([1, 2] if phase in VISIBLE_PHASES else [1])
    recover(tmp_path / "run", 2)
    assert ".bad-step-00000002-0" in names(tmp_path / "run")


def test_a_writer_killed_in_the_middle_of_a_file_shows_none_of_it(
    nursery: Nursery, tmp_path: Path
) -> None:
    publish_toy(tmp_path, "run", 1)
    nursery.start("die_in_the_middle_of_a_file", tmp_path / "run", step=2)
    assert nursery.wait() == -signal.SIGKILL
    assert whole_steps(tmp_path / "run") == [1]
    assert any(name.startswith(".tmp-step-00000002") for name in names(tmp_path / "run"))
    recover(tmp_path / "run", 2)


@pytest.mark.parametrize(
    ("before", "keep_every", "left"),
    [
        ("rename", None, [10, 11, 12, 13]),
        ("rmtree", None, [11, 12, 13]),
        ("replace", 5, [10, 11, 12, 13]),
        ("unlink", 5, [10, 11, 12, 13]),
    ],
)
def test_a_writer_killed_while_it_prunes_leaves_whole_steps(
    nursery: Nursery, tmp_path: Path, before: str, keep_every: int | None, left: list[int]
) -> None:
    state = {"training_state.json": lambda path: path.write_text("{}")}
    for number in (10, 11, 12, 13):
        publish_toy(tmp_path, "run", number, extra_files=state, resumable=True)
    nursery.start("die_in_prune", tmp_path / "run", before=before, keep_every=keep_every)
    assert nursery.wait() == -signal.SIGKILL
    assert whole_steps(tmp_path / "run") == left
    with RunLock(tmp_path / "run"):
        sweep(tmp_path / "run")
        prune(tmp_path / "run", Retention(keep_last=2, keep_every=keep_every))
    assert whole_steps(tmp_path / "run") == ([10, 12, 13] if keep_every else [12, 13])
    recover(tmp_path / "run", 14)


def test_a_writer_killed_from_outside_at_any_moment_never_shows_half_a_step(
    nursery: Nursery, tmp_path: Path
) -> None:
    clock, run_dir, newest = random.Random(20260729), tmp_path / "run", 1
    publish_toy(tmp_path, "run", newest)
    for death in range(12):
        pid = nursery.start("publish_for_ever", tmp_path / "run", first=newest + 1)
        deadline = time.monotonic() + clock.uniform(0.005, 0.25)
        while time.monotonic() < deadline or (death == 0 and newest_number(run_dir) == newest):
            with contextlib.suppress(StepVanished):
                open_step(run_dir, verify)
        os.kill(pid, signal.SIGKILL)
        assert nursery.wait() == -signal.SIGKILL
        found = whole_steps(run_dir)
        assert found[-1] >= newest
        newest = found[-1] + 1
        recover(run_dir, newest)
    assert newest > 13  # the first writer got one done, and each recovery did
