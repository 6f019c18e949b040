"""Whatever happens to a training process, the run that goes on is the run that was never stopped.

The trainers are real processes. Their recipe crosses what a resume could get wrong: epochs of
both sources, a stage, a phase and an accumulation window that the phase's end cuts short.
"""

import contextlib
import itertools
import os
import random
import signal
import time
from pathlib import Path

import pytest
from forked_processes import Nursery
from toy_run import assert_equal_runs, journal_of, toy_recipe
from trainer_process import TrainerProcess

EDGES = toy_recipe(
    "unit=micro",
    "batch.grad_accum_steps=3",
    "phases.0.steps=26",
    "phases.1.steps=10",
    "sources=[{name: sums, corpus: math, max_bytes: 600}, {name: more, corpus: math, "
    "max_bytes: 900}]",
    "stages=[{name: one, first_step: 0, weights: {sums: 0.75, more: 0.25}}, "
    "{name: two, first_step: 14, weights: {sums: 0.25, more: 0.75}}]",
    "cadence.eval_every=5",
    "cadence.sample_every=7",
    "cadence.checkpoint_every=6",
)


@pytest.fixture(scope="module")
def uninterrupted(trainers: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    trainer = TrainerProcess(trainers, tmp_path_factory.mktemp("uninterrupted"), EDGES)
    assert trainer.run() == 0
    return trainer.volume


def test_the_recipe_crosses_the_edges(uninterrupted: Path) -> None:
    lines = journal_of(uninterrupted)
    steps = [0, *(line["step"] for line in lines if line["kind"] == "train")]
    assert {after - before for before, after in itertools.pairwise(steps)} == {3, 2, 1}
    log = (uninterrupted / "toy" / "training.log").read_text()
    assert "phase two" in log
    lengths = sorted(
        path.stat().st_size // 2 for path in uninterrupted.glob(".cache/*/*/train.bin")
    )
    sequences = (0.75 * 28 + 0.25 * 44, 0.25 * 28 + 0.75 * 44)  # 28 in the first stage, 44 after
    for num_sequences, num_tokens in zip(sequences, lengths, strict=True):
        assert num_sequences * EDGES.batch.length > num_tokens


MOMENTS = ("_backward", "_score", "_sample")


@pytest.mark.parametrize("method", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_in_a_micro_batch_an_evaluation_or_a_sample_changes_nothing(
    method: str, number: int, trainers: Nursery, uninterrupted: Path, tmp_path: Path
) -> None:
    """Twice, so that what is resumed was resumed itself."""
    trainer = TrainerProcess(trainers, tmp_path, EDGES)
    clock = random.Random(f"{method} {number}")
    for first, last in ((4, 17), (2, 6)) if method == "_backward" else ((2, 3), (1, 1)):
        status = trainer.run_until_in(method, call=clock.randint(first, last), number=number)
        assert status == (0 if number == signal.SIGTERM else -number)
    said = trainer.log.count("was interrupted; it is saved")
    assert said == (2 if number == signal.SIGTERM else 0)
    assert trainer.run() == 0
    assert_equal_runs(trainer.volume, uninterrupted)


def test_a_micro_batch_that_takes_long_is_not_waited_for(
    trainers: Nursery, uninterrupted: Path, tmp_path: Path
) -> None:
    """Another thread saves the step before it: the tenth micro-batch is of the step after 9."""
    trainer, started = TrainerProcess(trainers, tmp_path, EDGES), time.monotonic()
    assert trainer.run_until_in("_backward", call=10, number=signal.SIGTERM, hang_s=120.0) == 0
    assert time.monotonic() - started < 100
    assert "it is saved at step 9" in trainer.log
    assert trainer.steps[-1] == 9
    assert trainer.run() == 0
    assert_equal_runs(trainer.volume, uninterrupted)


def test_kill_9_at_any_moment_changes_nothing(
    trainers: Nursery, uninterrupted: Path, tmp_path: Path
) -> None:
    trainer, clock = TrainerProcess(trainers, tmp_path, EDGES), random.Random(20260729)
    metrics = trainer.run_dir / "metrics.jsonl"
    statuses = []
    for _ in range(20):
        size = metrics.stat().st_size if metrics.exists() else 0
        pid, deadline = trainer.start(), time.monotonic() + 3
        while time.monotonic() < deadline and (
            not metrics.exists() or metrics.stat().st_size == size
        ):
            time.sleep(0.002)
        time.sleep(clock.uniform(0.0, 0.08))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        statuses.append(trainer.wait())
        assert trainer.steps == sorted(trainer.steps)
    assert statuses.count(-signal.SIGKILL) >= 5
    assert trainer.run() == 0
    assert_equal_runs(trainer.volume, uninterrupted)
