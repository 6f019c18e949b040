"""What can be wrong around a run: one line, exit status 2, and nothing of the run is lost."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer as Backend
from tokenizers import models
from toy_run import assert_equal_runs, toy_recipe, train_toy

from lm.volume import RunLock, list_steps, newest_step, verify
from trainer.__main__ import main
from trainer.recipe.schema import Recipe
from trainer.run.loop import Ending

Train = Callable[..., str]
"""Trains the toy recipe by the command line and returns its error; asserts status 2."""


@pytest.fixture(autouse=True)
def _own_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return tmp_path / "volume"


@pytest.fixture
def train(tmp_path: Path, volume: Path, capsys: pytest.CaptureFixture[str]) -> Train:
    def fail(*arguments: str, recipe: Recipe | None = None, into: Path = volume) -> str:
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump((recipe or toy_recipe()).to_dict()))
        options = ["--recipe", str(path), "--volume", str(into), "--threads", "1"]
        assert main([*options, *arguments]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert "Traceback" not in "".join(lines)
        errors = [line for line in lines if line.startswith("trainer: error: ")]
        assert lines[-1:] == errors, lines
        return errors[0].removeprefix("trainer: error: ")

    return fail


def files_of(run_dir: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run_dir.glob("step-*/*")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "input.txt: No such file or directory"),
        (b"", "input.txt: too short to hold out 10% of it"),
        (b"\n \n", "input.txt: too short to hold out 10% of it"),
        (b"To be\nor not to be\n", "do not fill one sequence of 16"),
        (b"caf\xe9\n" * 100, "input.txt: not UTF-8 text (byte 0xe9 at 3)"),
    ],
)
def test_a_corpus_that_cannot_be_trained_on(
    content: bytes | None, message: str, train: Train, tmp_path: Path, volume: Path
) -> None:
    text = tmp_path / "input.txt"
    if content is not None:
        text.write_bytes(content)
    assert message in train("--corpus", f"file:{text}")
    assert list_steps(volume / "toy") == []


def test_a_vocabulary_larger_than_the_model_s(train: Train, tmp_path: Path) -> None:
    words = {"<|endoftext|>": 0} | {f"w{index}": index for index in range(1, 400)}
    Backend(models.WordLevel(words, unk_token="w1")).save(str(tmp_path / "tokenizer.json"))
    recipe = toy_recipe(f"tokenizer={{source: {tmp_path / 'tokenizer.json'}}}")
    assert train(recipe=recipe) == "the tokenizer has 400 ids, model.vocab_size is 300"
    recipe = toy_recipe().to_dict()
    assert "tokenizer.vocab_size 301 exceeds model.vocab_size 300" in train(
        "--set", "tokenizer.vocab_size=301"
    )


def test_a_resumed_run_whose_recipe_changed_is_named_field_by_field(
    train: Train, volume: Path
) -> None:
    train_toy(volume, last_step=3)
    before = files_of(volume / "toy")
    error = train("--set", "optimizer.lr=1e-4", "--set", "phases.1.steps=9")
    assert "optimizer.lr: 0.003 → 0.0001; phases.1.steps: 4 → 9" in error
    assert "--force-recipe" in error
    assert files_of(volume / "toy") == before


def test_a_schedule_that_ended_at_0_cannot_be_extended_without_a_rate(
    train: Train, volume: Path
) -> None:
    recipe = toy_recipe("phases=[{name: only, steps: 2, schedule: {name: cosine}}]")
    train_toy(volume, recipe)
    assert "phase 'only' ends at learning rate 0: --extend-steps needs --lr" in train(
        "--extend-steps", "2", recipe=recipe
    )


def test_two_trainers_on_one_run(train: Train, volume: Path) -> None:
    train_toy(volume, last_step=3)
    before = files_of(volume / "toy")
    with RunLock(volume / "toy"):
        assert "toy: another trainer is writing to this run" in train()
    assert files_of(volume / "toy") == before


def test_a_volume_that_is_a_file(train: Train, volume: Path) -> None:
    volume.write_text("not a directory")
    assert "volume" in train()


Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a small filesystem in memory, with the given options; skips where that is refused."""
    mounted = []

    def mount_tmpfs(options: str) -> Path:
        place = tmp_path / "tmpfs"
        place.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.skip(f"no filesystem can be mounted here: {result.stderr.strip()}")
        mounted.append(place)
        return place

    if shutil.which("mount") is None or sys.platform != "linux":
        pytest.skip("there is no mount here")
    yield mount_tmpfs
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_volume_that_cannot_be_written(train: Train, mount: Mount) -> None:
    place = mount("size=1m,ro")
    assert "Read-only file system" in train(into=place)


def test_a_full_volume_at_the_start(train: Train, mount: Mount) -> None:
    place = mount("size=100k")
    _fill(place, leave=0)
    assert "No space left on device" in train(into=place)


def test_a_volume_that_fills_up(train: Train, mount: Mount, tmp_path: Path) -> None:
    """Training goes on past what cannot be saved; what was saved stays, and is gone on from."""
    place = mount("size=4m")
    train_toy(place, last_step=4)
    _fill(place, leave=0)
    error = train(into=place, recipe=toy_recipe("cadence.checkpoint_every=2"))
    assert error.startswith("step 12 could not be saved: ")
    assert "No space left on device" in error
    newest = newest_step(place / "toy")
    assert newest is not None
    assert newest.number == 4
    verify(newest)
    (place / "ballast").unlink()
    assert train_toy(place) is Ending.COMPLETE
    train_toy(tmp_path / "whole")
    assert_equal_runs(place, tmp_path / "whole")


def _fill(place: Path, *, leave: int) -> None:
    """Use up a filesystem's room but for some bytes."""
    with (place / "ballast").open("wb", buffering=0) as ballast:
        while True:
            try:
                ballast.write(bytes(4096))
            except OSError:
                break
        ballast.truncate(ballast.tell() - leave)
