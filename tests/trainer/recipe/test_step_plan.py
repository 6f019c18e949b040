import itertools
from collections.abc import Iterator

import pytest
from toy_run import toy_recipe

from trainer.recipe.step_plan import Plan, Window, is_due


def windows(plan: Plan) -> Iterator[Window]:
    micro_step = 0
    while (window := plan.window(micro_step)) is not None:
        yield window
        micro_step = window.micro_steps.stop


def test_counting_optimizer_steps_every_window_is_full() -> None:
    plan = Plan(toy_recipe())  # 8 and 4 steps of 2 micro-batches
    assert plan.num_micro_steps == 24
    assert plan.num_steps == 12
    assert [len(window.micro_steps) for window in windows(plan)] == [2] * 12
    assert [window.phase.name for window in windows(plan)] == ["one"] * 8 + ["two"] * 4
    assert [window.phase_step for window in windows(plan)] == [*range(8), *range(4)]


def test_counting_micro_steps_a_phase_s_end_cuts_its_last_window_short() -> None:
    plan = Plan(
        toy_recipe("unit=micro", "batch.grad_accum_steps=3", "phases.0.steps=7", "phases.1.steps=4")
    )
    assert [list(window.micro_steps) for window in windows(plan)] == [
        [0, 1, 2], [3, 4, 5], [6], [7, 8, 9], [10],
    ]  # fmt: skip
    assert plan.num_steps == 11
    assert plan.horizons == (3, 2)
    assert [plan.step(micro) for micro in (0, 3, 6, 7, 10, 11)] == [0, 3, 6, 7, 10, 11]
    assert [plan.optimizer_step(micro) for micro in (0, 3, 6, 7, 10, 11)] == [0, 1, 2, 3, 4, 5]


def test_windows_follow_each_other_without_gap_or_overlap() -> None:
    for accumulation, first in itertools.product((1, 2, 3, 5), (1, 4, 9)):
        overrides = (f"batch.grad_accum_steps={accumulation}", f"phases.0.steps={first}")
        for unit in ("micro", "optimizer"):
            plan = Plan(toy_recipe(f"unit={unit}", *overrides))
            micro_steps = [i for window in windows(plan) for i in window.micro_steps]
            assert micro_steps == list(range(plan.num_micro_steps))
            taken = [plan.optimizer_step(window.micro_steps.start) for window in windows(plan)]
            assert taken == list(range(len(taken)))


def test_a_schedule_s_own_horizon_wins_over_the_phase_s_length() -> None:
    assert Plan(toy_recipe("phases.0.schedule.horizon=2000")).horizons == (2000, 4)


def test_a_position_inside_a_window_is_nobody_s() -> None:
    with pytest.raises(AssertionError, match="inside an accumulation window"):
        Plan(toy_recipe()).window(1)


def test_a_step_is_due_when_a_multiple_was_reached_or_passed() -> None:
    assert [is_due(5, before, before + 1) for before in range(10)] == [
        False, False, False, False, True, False, False, False, False, True,
    ]  # fmt: skip
    assert is_due(5, 4, 7)
    assert not is_due(5, 5, 9)
