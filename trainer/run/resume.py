"""Where a run begins: at nothing, at imported weights, or at the newest of its own steps.

And by which recipe it goes on: what is asked for has to agree with what it was begun with
(``trainer.recipe.changes``).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from lm.model.decoder import Decoder
from lm.model.initialize import initialize
from lm.volume import Step, StepDamaged, load_model_config, load_weights
from trainer.recipe.changes import Amendment, amended, differences, stored_recipe
from trainer.recipe.schema import Recipe
from trainer.recipe.step_plan import Plan
from trainer.run.kept_model import asked_for, same_function, with_kept_fields, with_kept_model
from trainer.run.state import STATE_FILE, TrainingState, load_state
from trainer.step.counters import Counters
from trainer.step.precision import Precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """What a run begins with."""

    recipe: Recipe
    """What to train by: the one asked for, and what the run was made longer by."""
    description: str
    """For the log."""
    changes: tuple[str, ...] = ()
    """Where a forced recipe differs from the one that the run was saved with."""
    kept: tuple[str, ...] = ()
    """Where the imported model's values hold and not the recipe's."""
    asked_model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the recipe asked for there, for the state."""
    accepts_data: bool = False
    """Whether text that is not what it was is trained on all the same."""
    changed_sources: frozenset[str] = frozenset()
    """Names of the sources whose text a forced recipe changes."""
    step: Step | None = None
    """Where the weights and the tokenizer come from."""
    state: TrainingState | None = None
    """Of the run that is resumed."""
    precision: Precision | None = None
    """Of the run that is resumed; ``None`` is still to be chosen."""
    moments: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    @classmethod
    def at(cls, newest: Step | None, recipe: Recipe, amendment: Amendment) -> Self:
        """Begin at the newest step; raises ``ValueError`` if this recipe cannot go on from it."""
        if newest is not None and newest.manifest.details.resumable:
            return cls._resumed(newest, recipe, amendment)
        recipe = amended(recipe, amendment, Plan(recipe).horizons[-1])
        if newest is None:
            return cls(recipe=recipe, description="starting at step 0")
        if newest.number == 0:
            return cls._imported(newest, recipe, forced=amendment.force_recipe)
        raise ValueError(
            f"{newest.path} holds weights without a training state; choose another --run"
        )

    @classmethod
    def _imported(cls, step: Step, recipe: Recipe, *, forced: bool) -> Self:
        """Begin at imported weights, by their own model unless the recipe's is forced on them."""
        config = load_model_config(step)
        kept, changes = with_kept_model(recipe, config, step.name)
        return cls(
            recipe=recipe if forced else kept,
            description=f"starting from the imported weights of {step.name}",
            changes=tuple(same_function(config, recipe.model)) if forced else (),
            kept=() if forced else tuple(changes),
            asked_model={} if forced else asked_for(recipe, kept),
            step=step,
        )

    @classmethod
    def _resumed(cls, newest: Step, recipe: Recipe, amendment: Amendment) -> Self:
        state, moments = load_state(newest)
        try:
            stored = stored_recipe(state.recipe, recipe)
        except ValueError as error:
            raise StepDamaged(f"{newest.path / STATE_FILE}: {error}") from error
        if odd := same_function(stored.model, load_model_config(newest)):
            raise StepDamaged(
                f"{newest.path}: training_state.json and config.json differ: {'; '.join(odd)}"
            )
        recipe = with_kept_fields(recipe, state.asked_model, stored.model)
        recipe = recipe.model_copy(update={"extension": recipe.extension or stored.extension})
        changes = differences(stored.binding(), recipe.binding())
        if changes and not amendment.force_recipe:
            raise ValueError(
                f"run {newest.manifest.run} was begun with another recipe ({'; '.join(changes)}); "
                "restore it, accept the new one with --force-recipe, or choose another --run"
            )
        _refuse_other_steps(recipe, newest, state.counters)
        return cls(
            recipe=amended(recipe, amendment, state.horizons[-1]),
            description=f"going on from step {newest.number}",
            changes=tuple(changes),
            step=newest,
            accepts_data=amendment.accept_data,
            changed_sources=frozenset(
                one.name for one in recipe.sources if one not in stored.sources
            ),
            asked_model=state.asked_model,
            state=state,
            precision=state.precision if stored.precision == recipe.precision else None,
            # Moments of one optimizer mean nothing to another.
            moments=moments if stored.optimizer.name == recipe.optimizer.name else {},
        )

    @property
    def counters(self) -> Counters:
        """Counters to go on from."""
        return Counters() if self.state is None else self.state.counters

    def open_decoder(self, device: torch.device) -> Decoder:
        """The recipe's decoder with the weights to begin with; raises ``ValueError`` by name."""
        decoder = Decoder(self.recipe.model)
        if self.step is None:
            initialize(decoder, self.recipe.seed)
        else:
            load_parameters(decoder, load_weights(self.step))
        return decoder.to(device)


@torch.no_grad()
def load_parameters(decoder: Decoder, weights: Mapping[str, Tensor]) -> None:
    """Copy weights in place, so that a tied head stays tied; raises ``ValueError`` by name."""
    parameters = dict(decoder.named_parameters())
    if parameters.keys() != weights.keys():
        name = min(parameters.keys() ^ weights.keys())
        raise ValueError(f"the step's weights are not those of the recipe's model: {name}")
    for name, parameter in parameters.items():
        if parameter.shape != weights[name].shape:
            raise ValueError(
                f"{name} is {tuple(weights[name].shape)} in the step and "
                f"{tuple(parameter.shape)} in the recipe's model"
            )
        parameter.copy_(weights[name])


def _refuse_other_steps(recipe: Recipe, newest: Step, counters: Counters) -> None:
    """Raise ``ValueError`` if the recipe has no such step, as only a forced one may not."""
    plan = Plan(recipe)
    if plan.has_step_at(counters.micro_step) and plan.step(counters.micro_step) == newest.number:
        return
    raise ValueError(
        f"step {newest.number} of run {newest.manifest.run}, {counters.micro_step} micro-batches, "
        "is no step of this recipe; its unit, accumulation and phases so far have to stay"
    )
