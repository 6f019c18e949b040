import dataclasses
from pathlib import Path

import pytest
from toy_run import journal_of, toy_recipe, train_toy

from lm.volume import list_steps
from trainer.step.counters import Counters
from trainer.step.evaluate import Evaluation
from trainer.step.memorising import MARGIN, PATIENCE, shows_memorising


@pytest.mark.parametrize(
    ("loss", "average", "shown"),
    [
        (2.5, 1.0, True),
        (2.0 * (1 + MARGIN), 1.0, False),  # at the margin, not over it
        (2.0 * (1 + MARGIN) + 1e-9, 1.0, True),
        (2.5, 1.5, False),  # the training loss stands still
        (2.5, 3.0, False),  # both rise: that is divergence, another fault
        (2.0, 1.0, False),  # as good as the best
        (2.5, None, False),  # nothing trained yet
    ],
)
def test_one_evaluation_shows_it_over_the_margin_while_training_falls(
    loss: float, average: float | None, shown: bool
) -> None:
    best = {"best_loss": 2.0, "average_at_best": 1.5}
    assert shows_memorising(loss, average, **best) is shown


def test_a_best_before_any_training_shows_nothing() -> None:
    assert not shows_memorising(2.5, 1.0, best_loss=2.0, average_at_best=None)


def judged(*evaluations: tuple[float, float]) -> Counters:
    """Counters after evaluations of (held-out loss, training average), ten steps apart."""
    counters = Counters()
    for index, (loss, average) in enumerate(evaluations, start=1):
        counters = dataclasses.replace(counters, loss_average=average)
        counters = counters.after_evaluation(10 * index, Evaluation(loss, loss / 2, 100))
    return counters


RISING = [(2.1, 1.4), (2.2, 1.3), (2.3, 1.2)]


def test_it_takes_three_evaluations_in_a_row() -> None:
    assert len(RISING) == PATIENCE
    verdicts = [judged((2.0, 1.5), *RISING[:n]).is_memorising for n in range(4)]
    assert verdicts == [False, False, False, True]
    assert judged((2.0, 1.5), *RISING, (2.4, 1.1)).is_memorising, "it holds on"


@pytest.mark.parametrize("between", [(2.01, 1.3), (1.9, 1.3), (2.5, 1.6)])
def test_an_evaluation_that_does_not_show_it_starts_the_count_anew(
    between: tuple[float, float],
) -> None:
    """Within the margin, a new best, or a training loss that rose."""
    assert judged((2.0, 1.5), *RISING[:2], between).memorised_in_a_row == 0
    assert not judged((2.0, 1.5), *RISING, between).is_memorising
    assert not judged((2.0, 1.5), *RISING[:2], between, *RISING[:2]).is_memorising


def test_a_training_loss_that_flickers_near_its_floor_hides_nothing() -> None:
    """It is compared with what it was at the best, not with the evaluation before."""
    assert judged((2.0, 1.5), (3.0, 0.0007), (3.1, 0.0008), (3.2, 0.0007)).is_memorising


def test_counters_that_were_saved_before_there_was_this_judgement_show_nothing() -> None:
    old = Counters(best_step=10, best_validation_loss=2.0, loss_average=1.0)
    assert not old.after_evaluation(20, Evaluation(9.0, 4.5, 100)).memorised_in_a_row


LEARNS_BY_HEART = (
    "sources.0.max_bytes=1000",
    "sources.0.validation_fraction=0.4",
    "model.dropout=0.0",
    "batch.grad_accum_steps=1",
    "batch.micro_batch=4",
    "optimizer.muon_lr=0.05",
    "optimizer.lr=0.01",
    "phases.0.steps=80",
    "phases.0.schedule.name=constant",
    "phases.1.steps=10",
    "cadence.eval_every=10",
    "cadence.sample_every=1000",
    "cadence.checkpoint_every=10",
    "retention.keep_last=20",
)


@pytest.fixture(scope="module")
def by_heart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    volume = tmp_path_factory.mktemp("by_heart")
    train_toy(volume, toy_recipe(*LEARNS_BY_HEART))
    return volume


def test_a_run_on_too_little_text_ends_flagged(by_heart: Path) -> None:
    lines = [line for line in journal_of(by_heart) if line["kind"] == "evaluation"]
    first = next(line["step"] for line in lines if line["memorising"])
    assert lines[-1]["memorising"]
    assert lines[-1]["validation_loss"] > (1 + MARGIN) * lines[-1]["best_validation_loss"]
    flags = {step.number: step.manifest.details.flags for step in list_steps(by_heart / "toy")}
    assert min(flags) < first
    assert flags == {step: ("memorising",) if step >= first else () for step in flags}
    log = (by_heart / "toy" / "training.log").read_text()
    assert f"step {first} · memorising: held-out loss was lowest at step" in log


def test_a_run_that_learns_something_is_not_flagged(tmp_path: Path) -> None:
    train_toy(tmp_path, toy_recipe("cadence.eval_every=1"))
    verdicts = [line["memorising"] for line in journal_of(tmp_path) if line["kind"] == "evaluation"]
    assert len(verdicts) > PATIENCE
    assert not any(verdicts)
    assert all(not step.manifest.details.flags for step in list_steps(tmp_path / "toy"))


def test_a_resumed_run_goes_on_judging_where_the_stopped_one_was(
    by_heart: Path, tmp_path: Path
) -> None:
    for stop in (45, 65, None):
        train_toy(tmp_path, toy_recipe(*LEARNS_BY_HEART), last_step=stop)
    assert journal_of(tmp_path) == journal_of(by_heart)
