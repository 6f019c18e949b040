"""The step that leaves the volume: found by name, read whole, its bytes checked."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from lm.model.config import ModelConfig
from lm.text.tokenizer import Tokenizer
from lm.volume import (
    Step,
    VolumeError,
    best_step,
    list_runs,
    list_steps,
    load_model_config,
    load_tokenizer,
    load_weights,
    newest_step,
    verify,
)
from lm.volume.manifest import step_number
from lm.volume.read import read_step, step_paths
from trainer.recipe.changes import stored_recipe
from trainer.recipe.recipes import load_recipe
from trainer.recipe.schema import Recipe
from trainer.run.state import TrainingState, load_state

LATEST, BEST = "latest", "best"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A step in memory."""

    step: Step
    config: ModelConfig
    weights: Mapping[str, Tensor]
    """As they are on disk, by our names; no entry for a tied head."""
    tokenizer: Tokenizer
    state: TrainingState | None = None
    """``None`` for imported weights and milestones."""
    moments: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def recipe(self) -> Recipe | None:
        """What the run was trained by; ``None`` where the step does not keep it."""
        if self.state is None:
            return None
        return stored_recipe(self.state.recipe, stand_in_recipe())  # which gives what is free

    @property
    def run_dir(self) -> Path:
        """Where the run's journals are."""
        return self.step.path.parent


def stand_in_recipe() -> Recipe:
    """What is taken for a recipe where a step keeps none, or not all of it."""
    return load_recipe("tiny")


def find_step(volume: Path, name: str) -> Step:
    """The step that ``RUN``, ``RUN@STEP``, ``RUN@latest`` or ``RUN@best`` names.

    Raises ``ValueError`` naming what there is.
    """
    run, _, which = name.partition("@")
    run_dir = volume / run
    if run not in list_runs(volume):
        known = ", ".join(list_runs(volume)) or "none"
        raise ValueError(f"no run {run!r} in {volume}; there are: {known}")
    if which == BEST:
        step = best_step(run_dir)
    elif which in ("", LATEST):
        step = newest_step(run_dir)
    else:
        step = next((one for one in list_steps(run_dir) if str(one.number) == which), None)
    if step is None:
        steps = ", ".join(str(one.number) for one in list_steps(run_dir)) or "none"
        why = "".join(f"; {reason}" for reason in _why_incomplete(run_dir, which))
        raise ValueError(f"run {run} has no step {which or LATEST!r}; complete ones: {steps}{why}")
    return step


def _why_incomplete(run_dir: Path, which: str) -> Iterator[str]:
    """What is wrong with the step of a number, or with each of a run."""
    for path in step_paths(run_dir):
        if which in ("", LATEST, BEST, str(step_number(path.name))):
            try:
                read_step(path)
            except VolumeError as error:
                yield str(error)


def read_source(step: Step) -> Source:
    """Read a step after comparing every byte with its manifest; raises ``VolumeError`` if not."""
    verify(step)
    is_resumable = step.manifest.details.resumable
    state, moments = load_state(step) if is_resumable else (None, {})
    return Source(
        step=step,
        config=load_model_config(step),
        weights=load_weights(step),
        tokenizer=load_tokenizer(step),
        state=state,
        moments=moments,
    )
