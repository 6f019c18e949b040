import math

import pytest

from trainer.config import ScheduleConfig
from trainer.schedule import factor


def test_warm_up_rises_linearly_from_zero_and_reaches_one_at_its_end() -> None:
    schedule = ScheduleConfig(name="constant", warmup_steps=4)
    assert [factor(schedule, step, 10) for step in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd"])
def test_without_warm_up_every_schedule_starts_at_its_peak(name: str) -> None:
    assert factor(ScheduleConfig(name=name), 0, 100) == 1.0


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_falling_schedules_reach_their_floor_at_the_horizon_and_stay(
    name: str, floor: float
) -> None:
    schedule = ScheduleConfig(name=name, warmup_steps=10, floor=floor)
    assert factor(schedule, 99, 100) > floor
    assert factor(schedule, 100, 100) == factor(schedule, 5_000, 100) == pytest.approx(floor)


def test_linear_is_half_way_down_half_way_between_warm_up_and_horizon() -> None:
    assert factor(ScheduleConfig(name="linear", warmup_steps=20), 60, 100) == 0.5


def test_cosine_equals_torch_s_cosine_annealing_without_warm_up() -> None:
    schedule = ScheduleConfig(name="cosine", floor=0.2)
    for step in range(101):
        expected = 0.2 + 0.8 * (1 + math.cos(math.pi * step / 100)) / 2
        assert factor(schedule, step, 100) == pytest.approx(expected, abs=1e-12)


def test_wsd_is_the_learned_recipe_s_own_lr_lambda() -> None:
    schedule = ScheduleConfig(name="wsd", warmup_steps=2_000, decay_start=1_600_000)

    def lr_lambda(step: int) -> float:
        if step < 2_000:
            return step / 2_000
        if step < 1_600_000:
            return 1.0
        return max(0.0, 1 - (step - 1_600_000) / 400_000)

    steps = [0, 1, 1_999, 2_000, 1_599_999, 1_600_000, 1_600_001, 1_999_999, 2_000_000, 2_500_000]
    for step in steps:
        assert factor(schedule, step, 2_000_000) == pytest.approx(lr_lambda(step), abs=1e-12)


def test_wsd_decays_over_the_last_fifth_unless_told_otherwise() -> None:
    schedule = ScheduleConfig(name="wsd")
    assert [factor(schedule, step, 100) for step in (79, 80, 90)] == [1.0, 1.0, 0.5]


def test_a_warm_up_longer_than_the_horizon_ends_at_the_floor() -> None:
    schedule = ScheduleConfig(name="cosine", warmup_steps=50, floor=0.1)
    assert factor(schedule, 49, 20) == 0.98
    assert factor(schedule, 50, 20) == pytest.approx(0.1)
