"""Schedules at their corners, and equal to those of torch, transformers and the sources."""

import math
from collections.abc import Callable

import pytest
import torch

from trainer.recipe.recipes import load_recipe
from trainer.recipe.schedule import factor
from trainer.recipe.sections import ScheduleConfig
from trainer.recipe.step_plan import Plan


def test_warm_up_rises_linearly_from_zero_and_reaches_one_at_its_end() -> None:
    schedule = ScheduleConfig(name="constant", warmup_steps=4)
    assert [factor(schedule, step, 10) for step in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd"])
def test_without_warm_up_every_schedule_starts_at_its_peak(name: str) -> None:
    assert factor(ScheduleConfig(name=name), 0, 100) == 1.0


CORNERS = {
    # step:                          0    1     9    10    11     55    99    100  101  10**9
    "constant": [0.0, 0.1, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    "linear": [0.0, 0.1, 0.9, 1.0, 89 / 90, 0.5, 1 / 90, 0.0, 0.0, 0.0],
    "cosine": [0.0, 0.1, 0.9, 1.0, 0.999695, 0.5, 0.000305, 0.0, 0.0, 0.0],
    "wsd": [0.0, 0.1, 0.9, 1.0, 1.0, 1.0, 1 / 45, 0.0, 0.0, 0.0],
}
STEPS = [0, 1, 9, 10, 11, 55, 99, 100, 101, 10**9]


@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("name", CORNERS)
def test_corners(name: str, floor: float) -> None:
    """First step, warm-up's end, half way, last step, horizon, and past it."""
    schedule = ScheduleConfig(
        name=name,
        warmup_steps=10,
        floor=0.0 if name == "constant" else floor,
        decay_start=55 if name == "wsd" else None,
    )
    for step, corner in zip(STEPS, CORNERS[name], strict=True):
        expected = corner if step < 10 else schedule.floor + (1 - schedule.floor) * corner
        assert factor(schedule, step, 100) == pytest.approx(expected, abs=1e-6), step


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_falling_schedules_reach_their_floor_exactly_and_not_before_the_horizon(
    name: str, floor: float
) -> None:
    schedule = ScheduleConfig(name=name, warmup_steps=10, floor=floor)
    assert factor(schedule, 99, 100) > floor
    assert factor(schedule, 100, 100) == factor(schedule, 5_000, 100) == pytest.approx(floor)


def rates_of_torch(
    make: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler], steps: int
) -> list[float]:
    """The factor that a scheduler of torch's kind gives to each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_cosine_without_warm_up_is_torch_s_cosine_annealing(floor: float) -> None:
    expected = rates_of_torch(
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200, eta_min=floor),
        201,
    )
    schedule = ScheduleConfig(name="cosine", floor=floor)
    assert [factor(schedule, step, 200) for step in range(201)] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("horizon", [50, 1_250])
def test_linear_and_cosine_with_warm_up_are_transformers_own(horizon: int) -> None:
    transformers = pytest.importorskip("transformers")
    for name, make in (
        ("linear", transformers.get_linear_schedule_with_warmup),
        ("cosine", transformers.get_cosine_schedule_with_warmup),
    ):
        expected = rates_of_torch(
            lambda optimizer, make=make: make(optimizer, 20, horizon), horizon + 30
        )
        schedule = ScheduleConfig(name=name, warmup_steps=20)
        ours = [factor(schedule, step, horizon) for step in range(horizon)]
        assert ours == pytest.approx(expected[:horizon], abs=1e-12)
        if name == "linear":  # transformers' cosine rises again past its horizon; ours stays down
            ours = [factor(schedule, step, horizon) for step in range(horizon + 30)]
            assert ours == pytest.approx(expected, abs=1e-12)


def test_wsd_is_transformers_own() -> None:
    transformers = pytest.importorskip("transformers")
    expected = rates_of_torch(
        lambda optimizer: transformers.get_wsd_schedule(
            optimizer, num_warmup_steps=20, num_stable_steps=60, num_decay_steps=20,
            decay_type="linear",
        ),
        120,
    )  # fmt: skip
    schedule = ScheduleConfig(name="wsd", warmup_steps=20)  # decays over its last fifth
    assert [factor(schedule, step, 100) for step in range(120)] == pytest.approx(expected)


def lr_lambda(step: int) -> float:
    """The source of ``smollm2-135m-learned``, line by line."""
    warmup_steps = 2000
    decay_start = 1600000
    decay_steps = 400000
    if step < warmup_steps:
        return step / warmup_steps
    if step < decay_start:
        return 1.0
    return max(0.0, 1 - (step - decay_start) / decay_steps)


def test_wsd_is_the_learned_recipe_s_own_lr_lambda() -> None:
    recipe = load_recipe("smollm2-135m-learned")
    schedule, horizon = recipe.phases[0].schedule, Plan(recipe).horizons[0]
    steps = [
        0, 1, 1_999, 2_000, 2_001, 4_999, 1_599_999, 1_600_000, 1_600_001, 1_800_000, 1_999_999,
        2_000_000, 2_000_001, 2_500_000,
    ]  # fmt: skip
    assert [factor(schedule, step, horizon) for step in steps] == [lr_lambda(s) for s in steps]
    assert [lr_lambda(step) for step in (0, 2_000, 1_600_000, 2_000_000)] == [0.0, 1.0, 1.0, 0.0]


def test_wsd_decays_over_the_last_fifth_unless_told_otherwise() -> None:
    schedule = ScheduleConfig(name="wsd")
    assert [factor(schedule, step, 100) for step in (79, 80, 90)] == [1.0, 1.0, 0.5]


def test_a_warm_up_longer_than_the_horizon_ends_at_the_floor() -> None:
    schedule = ScheduleConfig(name="cosine", warmup_steps=50, floor=0.1)
    assert factor(schedule, 49, 20) == 0.98
    assert factor(schedule, 50, 20) == pytest.approx(0.1)


def test_the_curriculum_s_one_cosine_goes_on_through_both_of_its_phases() -> None:
    recipe = load_recipe("smollm2-135m-curriculum")
    plan = Plan(recipe)
    for step in (0, 50, 100, 2_575, 4_999, 5_000, 5_001, 5_049):
        window = plan.window(step * plan.accumulation)
        assert window is not None
        progress = (step - 100) / (5_050 - 100)
        cosine = 0.5 + 0.25 * (1 + math.cos(math.pi * progress))
        expected = step / 100 if step < 100 else cosine
        assert window.factor == pytest.approx(expected, abs=1e-12), step
