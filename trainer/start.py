"""Where a run begins: at nothing, at imported weights, or at the newest of its own steps."""

import dataclasses
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from lm.decoder import Decoder
from lm.initialize import initialize
from lm.volume import Step, load_weights
from trainer.config import Recipe
from trainer.state import Counters, TrainingState, binding_fields, differences, load_state


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """What a run begins with."""

    description: str
    """For the log."""
    step: Step | None = None
    """Where the weights and the tokenizer come from."""
    state: TrainingState | None = None
    """Of the run that is resumed."""
    moments: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    @classmethod
    def at(cls, newest: Step | None, recipe: Recipe) -> Self:
        """Begin at the newest step; raises ``ValueError`` if this recipe cannot go on from it."""
        if newest is None:
            return cls(description="starting at step 0")
        if newest.manifest.details.resumable:
            state, moments = load_state(newest)
            _refuse_changes(state.recipe, recipe, newest.manifest.run)
            description = f"going on from step {newest.number}"
            return cls(description=description, step=newest, state=state, moments=moments)
        if newest.number == 0:
            description = f"starting from the imported weights of {newest.name}"
            return cls(description=description, step=newest)
        raise ValueError(
            f"{newest.path} holds weights without a training state; choose another --run"
        )

    @property
    def counters(self) -> Counters:
        """Counters to go on from."""
        return Counters() if self.state is None else self.state.counters

    def open_decoder(self, recipe: Recipe, device: torch.device) -> Decoder:
        """The recipe's decoder with the weights to begin with; raises ``ValueError`` by name."""
        decoder = Decoder(recipe.model)
        if self.step is None:
            initialize(decoder, recipe.seed)
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


def _refuse_changes(saved: Mapping[str, object], recipe: Recipe, run: str) -> None:
    changes = differences(saved, binding_fields(recipe))
    if changes:
        raise ValueError(
            f"run {run} was begun with another recipe ({'; '.join(changes)}); "
            "restore it, or choose another --run"
        )
