"""Learning-rate factors as pure functions of the optimizer step.

``factor`` is what the peak learning rate is multiplied by at one optimizer step of a phase. Steps
count from 0; the warm-up is step / warmup_steps, 0 at step 0, as in transformers and in the
recipes' sources. The horizon is the step at which the floor is reached, one past the last step of
a phase that ends there; beyond it every falling schedule stays at its floor, so that a run can be
extended without its rate jumping up again. Not here: which horizon a phase has
(``trainer.recipe.step_plan``) or which parameters a rate is for (``trainer.step.optimizer``).
"""

import math

from trainer.recipe.sections import ScheduleConfig

STABLE_FRACTION = 0.8
"""Where ``wsd`` starts to decay if the recipe does not say: SmolLM2's last fifth."""


def factor(schedule: ScheduleConfig, step: int, horizon: int) -> float:
    """Share of the peak learning rate at an optimizer step, in [0, 1].

    Args:
        schedule: its shape.
        step: optimizer steps taken before this one in the phase, >= 0.
        horizon: optimizer steps over which the schedule is laid out, > 0.

    """
    assert step >= 0, step
    assert horizon > 0, horizon
    if step < schedule.warmup_steps:
        return step / schedule.warmup_steps
    return schedule.floor + (1.0 - schedule.floor) * _fall(schedule, step, horizon)


def _fall(schedule: ScheduleConfig, step: int, horizon: int) -> float:
    """From 1 where the schedule starts to fall to 0 at the horizon."""
    match schedule.name:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - _progress(step, schedule.warmup_steps, horizon)
        case "cosine":
            progress = _progress(step, schedule.warmup_steps, horizon)
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        case "wsd":
            start = schedule.decay_start
            if start is None:
                start = round(STABLE_FRACTION * horizon)
            return 1.0 - _progress(step, start, horizon)


def _progress(step: int, start: int, end: int) -> float:
    """Share of the way from start to end, clamped to [0, 1]; 1 where there is no way to go."""
    if end <= start:
        return 0.0 if step < start else 1.0
    return min(max((step - start) / (end - start), 0.0), 1.0)
