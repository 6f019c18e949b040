"""Extensions and forced recipes; what they do to a run is at the end, through ``run.train``."""

import dataclasses
from pathlib import Path

import pytest
import torch
from toy_run import (
    StopAtPoll,
    assert_equal_runs,
    journal_of,
    tensors_of,
    toy_recipe,
    train_toy,
)

from lm.volume import newest_step
from trainer.recipe.changes import Amendment, amended, differences, stored_recipe
from trainer.recipe.step_plan import Plan
from trainer.run import resume as start
from trainer.run.loop import Ending
from trainer.run.state import load_state

FALLING = ("phases=[{name: only, steps: 6, schedule: {name: cosine}}]",)
TO_A_FLOOR = ("phases=[{name: only, steps: 6, schedule: {name: linear, floor: 0.25}}]",)
MICRO = ("unit=micro", "batch.grad_accum_steps=3", "phases.0.steps=10", "phases.1.steps=4")


def factors(plan: Plan) -> list[float]:
    """The schedule's factor at every optimizer step."""
    found, micro_step = [], 0
    while (window := plan.window(micro_step)) is not None:
        found.append(window.factor)
        micro_step = window.micro_steps.stop
    return found


def test_nothing_asked_for_changes_nothing() -> None:
    assert amended(toy_recipe(), Amendment(), 4) == toy_recipe()


def test_an_extension_goes_on_with_the_last_schedule_and_its_horizon() -> None:
    recipe = toy_recipe("phases=[{name: only, steps: 6, schedule: {name: linear, horizon: 12}}]")
    (phase,) = amended(recipe, Amendment(extend_steps=3), 12).extension
    assert (phase.name, phase.steps, phase.schedule.first_step) == ("extension", 3, 6)
    whole = Plan(amended(recipe, Amendment(extend_steps=3), 12))
    assert whole.num_steps == 9
    assert factors(whole) == pytest.approx([1 - step / 12 for step in range(9)])


def test_past_the_horizon_an_extension_stays_at_the_floor() -> None:
    plan = Plan(amended(toy_recipe(*TO_A_FLOOR), Amendment(extend_steps=4), 6))
    assert factors(plan)[6:] == [0.25] * 4


def test_a_schedule_that_ended_at_0_needs_a_learning_rate() -> None:
    recipe = toy_recipe(*FALLING)
    with pytest.raises(ValueError, match=r"'only' ends at learning rate 0: --extend-steps needs"):
        amended(recipe, Amendment(extend_steps=3), 6)
    (phase,) = amended(recipe, Amendment(extend_steps=3, lr=1e-4), 6).extension
    assert (phase.lr, phase.schedule.name) == (1e-4, "constant")


def test_an_extension_keeps_the_last_phase_s_rate_and_weight_decay() -> None:
    recipe = toy_recipe("phases.1.weight_decay=0.02")
    (phase,) = amended(recipe, Amendment(extend_steps=3), 4).extension
    assert (phase.lr, phase.weight_decay) == (recipe.phases[1].lr, 0.02)


def test_what_was_added_counts_and_less_or_other_is_refused() -> None:
    once = amended(toy_recipe(), Amendment(extend_steps=3, lr=1e-4), 4)
    assert amended(once, Amendment(), 3) == once
    assert amended(once, Amendment(extend_steps=3), 3) == once
    assert amended(once, Amendment(extend_steps=3, lr=1e-4), 3) == once
    twice = amended(once, Amendment(extend_steps=5, lr=1e-5), 3)
    assert [phase.steps for phase in twice.extension] == [3, 2]
    for other in (Amendment(extend_steps=2), Amendment(extend_steps=3, lr=1e-5)):
        with pytest.raises(ValueError, match=r"longer by other steps already: 3 at lr 0\.0001"):
            amended(once, other, 3)


def test_differences_are_named_leaf_by_leaf() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "d": 5, "e": [1]}
    new = {"a": {"b": 2, "c": [1, 3]}, "d": 5, "e": [1, 2], "f": None}
    assert differences(old, new) == ["a.b: 1 → 2", "a.c.1: 2 → 3", "e: [1] → [1, 2]"]


def test_a_key_that_came_after_a_run_has_its_default_there() -> None:
    """A run of an older version, whose recipe had fewer keys, goes on."""
    recipe = toy_recipe()
    binding = recipe.binding()
    del binding["extension"], binding["phases"][0]["schedule"]["first_step"]
    free = toy_recipe("description=other", "cadence.eval_every=9")
    assert stored_recipe(binding, free) == free


@pytest.mark.parametrize(
    ("overrides", "amendment", "end"),
    [
        ((), Amendment(extend_steps=5), 17),
        (FALLING, Amendment(extend_steps=5, lr=1e-3), 11),
        (TO_A_FLOOR, Amendment(extend_steps=5), 11),
        (MICRO, Amendment(extend_steps=5), 19),
    ],
)
def test_a_run_is_extended_to_the_same_end_however_often_it_is_stopped(
    overrides: tuple[str, ...], amendment: Amendment, end: int, tmp_path: Path
) -> None:
    recipe = toy_recipe(*overrides)
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for volume in (whole, pieces):
        assert train_toy(volume, recipe) is Ending.COMPLETE
    assert train_toy(whole, recipe, amendment=amendment) is Ending.COMPLETE
    polls = 2
    while (
        train_toy(pieces, recipe, amendment=amendment, interrupt=StopAtPoll(polls))
        is not Ending.COMPLETE
    ):
        polls += 5
    assert_equal_runs(pieces, whole)
    assert train_toy(pieces, recipe, amendment=amendment) is Ending.COMPLETE
    newest = newest_step(pieces / "toy")
    assert newest is not None
    assert newest.number == end


def test_an_interrupted_extension_is_gone_on_with_by_a_call_that_adds_nothing(
    tmp_path: Path,
) -> None:
    amendment = Amendment(extend_steps=5)
    train_toy(tmp_path, last_step=14, amendment=amendment)
    assert train_toy(tmp_path) is Ending.COMPLETE
    newest = newest_step(tmp_path / "toy")
    assert newest is not None
    assert newest.number == 17


def test_the_horizon_is_the_one_that_the_checkpoint_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = toy_recipe(*TO_A_FLOOR)
    train_toy(tmp_path, recipe)
    newest = newest_step(tmp_path / "toy")
    assert newest is not None
    state, moments = load_state(newest)
    assert state.horizons == (6,)
    longer = dataclasses.replace(state, horizons=(60,))
    monkeypatch.setattr(start, "load_state", lambda _: (longer, moments))
    (phase,) = start.Start.at(newest, recipe, Amendment(extend_steps=2)).recipe.extension
    assert (phase.schedule.horizon, phase.schedule.first_step) == (60, 6)


def test_extended_from_the_start_the_weights_are_the_same(tmp_path: Path) -> None:
    amendment = Amendment(extend_steps=3)
    train_toy(tmp_path / "at once", amendment=amendment)
    train_toy(tmp_path / "later")
    train_toy(tmp_path / "later", amendment=amendment)
    at_once, later = tensors_of(tmp_path / "at once"), tensors_of(tmp_path / "later")
    assert all(torch.equal(later[name], tensor) for name, tensor in at_once.items())


FORCE = Amendment(force_recipe=True)


def test_a_forced_recipe_is_warned_of_by_field_and_is_the_run_s_from_then_on(
    tmp_path: Path,
) -> None:
    train_toy(tmp_path, last_step=2)
    changed = toy_recipe("optimizer.lr=1e-4", "phases.1.steps=2")
    train_toy(tmp_path, changed, last_step=4, amendment=FORCE)
    log = (tmp_path / "toy" / "training.log").read_text()
    assert "forced into the run's recipe: optimizer.lr: 0.003 → 0.0001" in log
    assert "forced into the run's recipe: phases.1.steps: 4 → 2" in log
    rates = [line["learning_rate"] for line in journal_of(tmp_path) if line["kind"] == "train"]
    assert rates[-1] <= 1e-4 < rates[1]
    with pytest.raises(ValueError, match=r"optimizer\.lr: 0\.0001 → 0\.003"):
        train_toy(tmp_path)
    assert train_toy(tmp_path, changed) is Ending.COMPLETE
    newest = newest_step(tmp_path / "toy")
    assert newest is not None
    assert newest.manifest.details.recipe_hash == changed.recipe_hash


@pytest.mark.parametrize(
    "change",
    [
        "batch.grad_accum_steps=1",
        "batch.grad_accum_steps=3",
        "unit=micro",
        "phases=[{name: x, steps: 1}]",
    ],
)
def test_what_would_renumber_the_steps_cannot_be_forced(change: str, tmp_path: Path) -> None:
    train_toy(tmp_path, last_step=4)
    with pytest.raises(ValueError, match="step 4 of run toy, 8 micro-batches, is no step of this"):
        train_toy(tmp_path, toy_recipe(change), amendment=FORCE)


def test_another_model_cannot_be_forced_onto_weights_that_do_not_fit(tmp_path: Path) -> None:
    train_toy(tmp_path, last_step=1)
    with pytest.raises(ValueError, match=r"in the step and .* in the recipe's model"):
        train_toy(tmp_path, toy_recipe("model.hidden_size=16"), amendment=FORCE)


def test_another_optimizer_begins_with_moments_of_its_own(tmp_path: Path) -> None:
    train_toy(tmp_path, last_step=2)
    train_toy(tmp_path, toy_recipe("optimizer.name=adamw"), last_step=4, amendment=FORCE)
    steps = {t.item() for name, t in tensors_of(tmp_path).items() if name.endswith("/step")}
    assert steps == {2.0}


def test_another_precision_is_taken_over(tmp_path: Path) -> None:
    train_toy(tmp_path, last_step=1)
    train_toy(tmp_path, toy_recipe("precision=bfloat16"), last_step=2, amendment=FORCE)
    assert "precision bfloat16: asked for" in (tmp_path / "toy" / "training.log").read_text()
