"""What one call may change about a run beside going on with it: make it longer, or force a recipe.

Pure: recipes in, the recipe to train by out. What was added to a run belongs to it, so the same
call repeated goes on to the same end, and so does a call that adds nothing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainer.recipe.schedule import factor
from trainer.recipe.schema import FREE_FIELDS, Recipe
from trainer.recipe.sections import PhaseConfig, ScheduleConfig
from trainer.recipe.step_plan import Plan

_CONSTANT = ScheduleConfig(name="constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Amendment:
    """What is asked for."""

    extend_steps: int | None = None
    """Steps past the recipe's own end, in its unit."""
    lr: float | None = None
    """Constant learning rate of these; ``None`` goes on with the last phase's schedule."""
    force_recipe: bool = False
    """Whether a recipe that differs from the run's takes its place."""
    accept_data: bool = False
    """Whether a corpus or a tokenizer file that has changed takes the old one's place."""


def stored_recipe(binding: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """The recipe that a run was saved with; what is free to change is the given one's."""
    free = recipe.model_dump(mode="json", include=set(FREE_FIELDS))
    if recipe.compile == "auto" and binding.get("compile") is False:
        binding = {**binding, "compile": "auto"}  # false was the default before
    return Recipe.from_dict({**free, **binding})


def differences(saved: Any, current: Any, path: str = "") -> list[str]:
    """Where two pieces of plain data differ, as ``path: old → new``, one entry a leaf."""
    if isinstance(saved, Mapping) and isinstance(current, Mapping):
        pairs = [(str(key), saved.get(key), current.get(key)) for key in {**saved, **current}]
    elif isinstance(saved, list) and isinstance(current, list) and len(saved) == len(current):
        pairs = [(str(i), *both) for i, both in enumerate(zip(saved, current, strict=True))]
    else:
        return [] if saved == current else [f"{path}: {saved!r} → {current!r}"]
    return [
        line
        for key, old, new in pairs
        for line in differences(old, new, f"{path}.{key}" if path else key)
    ]


def amended(recipe: Recipe, amendment: Amendment, horizon: int) -> Recipe:
    """The recipe made as long as is asked for; phases that were added before count.

    Args:
        recipe: with what earlier calls have added.
        amendment: what this call asks for.
        horizon: optimizer steps over which the last phase's schedule is laid out.

    Raises ``ValueError`` if the run is longer already, or has no learning rate to go on with.
    """
    if amendment.extend_steps is None:
        return recipe
    missing = amendment.extend_steps - sum(phase.steps for phase in recipe.extension)
    last = recipe.all_phases[-1]
    if missing < 0 or (missing == 0 and amendment.lr not in (None, last.lr)):
        added = ", ".join(f"{phase.steps} at lr {phase.lr}" for phase in recipe.extension)
        raise ValueError(f"the run was made longer by other steps already: {added}")
    if missing == 0:
        return recipe
    schedule, lr = _CONSTANT, amendment.lr
    if lr is None:
        lr, schedule = last.lr, _continued(recipe, horizon)
    phase = PhaseConfig(
        name="extension", steps=missing, lr=lr, weight_decay=last.weight_decay, schedule=schedule
    )
    return recipe.model_copy(update={"extension": (*recipe.extension, phase)})


def _continued(recipe: Recipe, horizon: int) -> ScheduleConfig:
    """The last phase's schedule from that phase's end on, its horizon as it is."""
    last, plan = recipe.all_phases[-1], Plan(recipe)
    end = last.schedule.first_step + plan.optimizer_steps_of(len(recipe.all_phases) - 1)
    if factor(last.schedule, end, horizon) == 0.0:
        raise ValueError(
            f"the schedule of phase {last.name!r} ends at learning rate 0: --extend-steps needs "
            "--lr"
        )
    return last.schedule.model_copy(update={"first_step": end, "horizon": horizon})
