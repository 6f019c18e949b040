"""The model of imported weights against the one that a recipe names: the weights' own is kept.

Weights fit any config of equal shapes. What no shape shows (rotary base, epsilon, heads with
equal products, activation, scales, the longest sequence) decides what they compute, so the
imported model's values hold and the recipe's are reported. A resumed run remembers them, so that
the same command goes on. Not here: how a recipe differs from a run's own
(``trainer.recipe.changes``).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from lm.model.config import ModelConfig
from lm.model.decoder import Decoder
from trainer.recipe.changes import differences
from trainer.recipe.schema import Recipe

_OF_TRAINING = ("dropout", "initializer_range")
"""Fields that decide nothing of what weights compute."""


def same_function(ours: ModelConfig, theirs: ModelConfig) -> list[str]:
    """Fields that decide what weights compute and differ, as ``model.field: ours → theirs``."""
    return differences(_deciding(ours), _deciding(theirs), "model")


def with_kept_model(recipe: Recipe, config: ModelConfig, where: str) -> tuple[Recipe, list[str]]:
    """The recipe with the model of the weights that it begins with, and what was not the recipe's.

    Args:
        recipe: as it is asked for; its dropout and initializer range stay.
        config: of the weights.
        where: names the weights in errors.

    Raises ``ValueError`` naming every field if the shapes differ, or if the recipe's sequences are
    longer than that model's.

    """
    changes = same_function(recipe.model, config)
    if not changes:
        return recipe, []
    if _shapes(recipe.model) != _shapes(config):
        raise ValueError(
            f"{where} holds another model than the recipe's ({'; '.join(changes)}); change the "
            "recipe, with --set or in its file, or choose another --run"
        )
    own = {name: getattr(recipe.model, name) for name in _OF_TRAINING}
    return _with_model(recipe, dataclasses.replace(config, **own)), changes


def asked_for(recipe: Recipe, kept: Recipe) -> dict[str, Any]:
    """Fields of the model in which a recipe is not what it became, as the recipe has them."""
    became = kept.model.to_dict()
    return {name: was for name, was in recipe.model.to_dict().items() if was != became[name]}


def with_kept_fields(recipe: Recipe, asked: Mapping[str, Any], config: ModelConfig) -> Recipe:
    """The recipe with a run's kept fields, where it still asks for what it asked for then."""
    ours, kept = recipe.model.to_dict(), config.to_dict()
    again = {name: kept[name] for name, was in asked.items() if ours.get(name) == was}
    return _with_model(recipe, dataclasses.replace(recipe.model, **again)) if again else recipe


def _with_model(recipe: Recipe, model: ModelConfig) -> Recipe:
    """The recipe with another model, checked as a whole."""
    return Recipe.from_dict({**recipe.to_dict(), "model": model.to_dict()})


def _deciding(config: ModelConfig) -> dict[str, Any]:
    unused = {"rope_theta"} if config.positions != "rope" else set()
    return {
        name: value
        for name, value in config.to_dict().items()
        if name not in _OF_TRAINING and name not in unused
    }


def _shapes(config: ModelConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: weight.shape for name, weight in Decoder(config).named_parameters()}
