"""A disk that is full while a run trains: nothing is lost, and training goes on.

The disk is a small one of its own, in memory; mounting it takes root.
"""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked_processes import Nursery
from serving import wait_until
from toy_run import journal_of, samples_of, tensors_of, toy_recipe, train_toy
from trainer_process import TrainerProcess

ENDLESS = toy_recipe(
    "phases.0.steps=1000000", "cadence.checkpoint_every=10", "cadence.sample_every=7"
)
DISK_BYTES = 8 * 2**20
FULL = re.compile(r"step \d+ could not be saved: .*No space left on device")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few steps."""
    directory = tmp_path / "volume"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(directory)]
    try:
        refused = subprocess.run(mount, capture_output=True, text=True).stderr
    except FileNotFoundError as error:
        refused = str(error)
    if refused:
        reason = f"no file system of its own could be mounted: {refused.strip()}"
        if os.environ.get("REQUIRE_TOOLS"):
            pytest.fail(reason)
        pytest.skip(reason)
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """Leave no byte of room; returns the file that takes it."""
    filler = directory / "somebody else's"
    with filler.open("wb", buffering=0) as file:
        for size in (2**16, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return filler


@pytest.fixture
def trainer(trainers: Nursery, tmp_path: Path, disk: Path) -> TrainerProcess:
    return TrainerProcess(trainers, tmp_path, ENDLESS)


def test_a_full_disk_is_said_and_survived_and_the_run_is_what_it_would_have_been(
    trainer: TrainerProcess, disk: Path, tmp_path: Path
) -> None:
    pid = trainer.start()
    wait_until(lambda: trainer.newest, "a first step", timeout_s=60)
    filler = fill(disk)
    wait_until(lambda: len(FULL.findall(trainer.log)) >= 2, "two failures", timeout_s=60)
    kept = trainer.steps
    assert kept, "older steps are all there"
    assert "training goes on, older steps are untouched" in trainer.log
    assert "metrics.jsonl waits for room" in trainer.log
    filler.unlink()
    wait_until(lambda: trainer.newest > kept[-1], "a step after that", timeout_s=60)
    os.kill(pid, signal.SIGTERM)
    assert trainer.wait() == 0

    last = trainer.newest
    train_toy(tmp_path / "reference", ENDLESS, last_step=last)
    ours, theirs = tensors_of(trainer.volume), tensors_of(tmp_path / "reference")
    assert all((ours[name] == tensor).all() for name, tensor in theirs.items())
    assert journal_of(trainer.volume) == journal_of(tmp_path / "reference")
    assert samples_of(trainer.volume) == samples_of(tmp_path / "reference")


def test_a_run_that_is_stopped_on_a_full_disk_says_so_and_keeps_what_it_had(
    trainer: TrainerProcess, disk: Path
) -> None:
    pid = trainer.start()
    wait_until(lambda: trainer.newest, "a first step", timeout_s=60)
    filler = fill(disk)
    wait_until(lambda: FULL.search(trainer.log), "a failure", timeout_s=60)
    kept = trainer.steps
    os.kill(pid, signal.SIGTERM)
    assert trainer.wait() == 2
    error = trainer.log.splitlines()[-1]
    assert error.startswith("trainer: error: step ")
    assert FULL.search(error)
    assert trainer.steps == kept
    assert not list(trainer.run_dir.glob(".tmp-*"))

    filler.unlink()
    assert trainer.run("--steps", str(kept[-1] + 1)) == 0
    assert trainer.steps[-1] == kept[-1] + 1
    assert f"going on from step {kept[-1]}" in trainer.log
