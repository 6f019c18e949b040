"""Every recipe, scaled down, runs through; and stopped 20 times it is bit for bit the same run."""

import functools
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from rich.console import Console
from toy_run import StopAtPoll, assert_equal_runs, journal_of, samples_of, train_toy

import trainer.data.datasets
import trainer.step.precision
from lm.volume import list_steps, newest_step
from trainer.__main__ import main
from trainer.data.corpora import open_corpus
from trainer.recipe.describe import summary
from trainer.recipe.recipes import list_recipes, load_recipe, override
from trainer.recipe.schema import Recipe
from trainer.recipe.smoke import scaled_down
from trainer.recipe.step_plan import Plan
from trainer.run.loop import Ending

STOPS = 20

_open_corpus_once = functools.cache(open_corpus)


@pytest.fixture(autouse=True)
def _cheap_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a corpus once for all runs, and let no clock choose the precision of one of them."""
    monkeypatch.setattr(trainer.data.datasets, "open_corpus", _open_corpus_once)
    monkeypatch.setattr(trainer.step.precision, "bfloat16_speedup", lambda *_, **__: 2.0)


class CountPolls(StopAtPoll):
    """An interrupt that never comes."""

    polls = 0

    def __init__(self) -> None:
        super().__init__(0)

    @property
    def requested(self) -> bool:
        self.polls += 1
        return False


@pytest.mark.parametrize("name", list_recipes())
def test_a_small_run_does_everything_and_stopped_anywhere_it_is_the_same_run(
    name: str, tmp_path: Path
) -> None:
    recipe = scaled_down(load_recipe(name))
    counted = CountPolls()
    assert train_toy(tmp_path / "whole", recipe, interrupt=counted) is Ending.COMPLETE
    assert_everything_happened(tmp_path / "whole", recipe)

    stopped_at = train_in_pieces(tmp_path / "pieces", recipe, counted.polls)
    assert len(set(stopped_at)) > STOPS / 3
    assert_equal_runs(tmp_path / "pieces", tmp_path / "whole")


def train_in_pieces(volume: Path, recipe: Recipe, polls: int) -> list[int]:
    """Train with stops at random polls; returns the steps at which each piece ended."""
    stops, stopped_at = random.Random(recipe.name), []
    for _ in range(STOPS):
        interrupt = StopAtPoll(stops.randrange(2 * polls // STOPS))
        assert train_toy(volume, recipe, interrupt=interrupt) is Ending.INTERRUPTED
        newest = newest_step(volume / "toy")
        stopped_at.append(0 if newest is None else newest.number)
    assert train_toy(volume, recipe) is Ending.COMPLETE
    return stopped_at


def test_across_stages_and_epochs_too(tmp_path: Path) -> None:
    """So little text that every source begins again before the run ends."""
    slices = [f"sources.{index}.max_bytes=800" for index in range(3)]
    small = scaled_down(load_recipe("smollm2-135m-curriculum"))
    recipe = override(small, [*slices, "batch.micro_batch=6"])
    counted = CountPolls()
    train_toy(tmp_path / "whole", recipe, interrupt=counted)
    assert all(epochs > 1 for epochs in epochs_by_source(recipe, tmp_path / "whole").values())
    train_in_pieces(tmp_path / "pieces", recipe, counted.polls)
    assert_equal_runs(tmp_path / "pieces", tmp_path / "whole")


def epochs_by_source(recipe: Recipe, volume: Path) -> dict[str, float]:
    """How often a run went through each of its sources."""
    data = trainer.data.datasets.open_data(
        recipe, newest_step(volume / "toy"), volume, console=Console(), note=str
    )
    sequences = range(Plan(recipe).num_micro_steps * recipe.batch.micro_batch)
    taken = Counter(data._batches.locate(sequence)[0] for sequence in sequences)
    return {name: n / data._batches._windows[name].num_windows for name, n in taken.items()}


def test_one_command_runs_both_phases_into_a_run_of_the_small_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--recipe", "gpt-80m", "--smoke", "--volume", str(tmp_path), "--device", "cpu"]
    assert main([*command, "--threads", str(torch.get_num_threads())]) == 0
    log = capsys.readouterr().err
    assert "precision bfloat16: float16 products are unusably slow on CPUs" in log
    assert "step 0 · phase first: cosine, lr 0.0003, weight decay 0.01" in log
    assert "step 24 · phase second: constant, lr 0.0001, weight decay 0.02" in log
    assert "run gpt-80m-smoke is complete at step 27" in log
    newest = newest_step(tmp_path / "gpt-80m-smoke")
    assert newest is not None
    assert newest.number == 27


def assert_everything_happened(volume: Path, recipe: Recipe) -> None:
    """Steps, evaluations, samples and checkpoints came at their cadence, and old ones went."""
    cadence, num_steps = recipe.cadence, Plan(recipe).num_steps
    journal = journal_of(volume)
    trained = [line["step"] for line in journal if line["kind"] == "train"]
    assert trained[-1] == num_steps
    evaluated = {line["step"] for line in journal if line["kind"] == "evaluation"}
    assert len(evaluated) >= num_steps // cadence.eval_every
    assert num_steps in evaluated
    samples = samples_of(volume)
    assert len(samples) == num_steps // cadence.sample_every * len(recipe.sample_prompts)
    steps = [step.number for step in list_steps(volume / "toy")]
    assert num_steps in steps
    keep_last = recipe.retention.keep_last
    assert min(keep_last, num_steps // cadence.checkpoint_every) <= len(steps) <= keep_last + 1
    newest = newest_step(volume / "toy")
    assert newest is not None
    assert newest.manifest.details.resumable
    log = (volume / "toy" / "training.log").read_text()
    assert summary(recipe.model) in log
    for phase in recipe.phases:
        assert f"phase {phase.name}: {phase.schedule.name}" in log
