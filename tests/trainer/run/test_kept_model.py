"""A fine-tune keeps the model that it starts from, whatever its recipe says where shapes agree."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from toy_run import toy_recipe, train_toy
from toys import publish_toy

from lm.model.config import ModelConfig
from lm.volume import Step, load_model_config, newest_step
from trainer.recipe.schema import Recipe

HIDDEN: dict[str, Any] = {
    "rope_theta": 100_000.0,
    "norm_eps": 1e-6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "residual_scale": 0.5,
    "norm": "layernorm",
}
"""A value of each field that no shape of the toy recipe's weights shows."""


def recipe(*overrides: str) -> Recipe:
    return toy_recipe("tokenizer.source=weights", "tokenizer.vocab_size=1024", *overrides)


def imported(volume: Path, **changes: Any) -> ModelConfig:
    """A step 0 of the toy recipe's shapes and of other values."""
    config = dataclasses.replace(recipe().model, dropout=0.0, **changes)
    publish_toy(volume, "toy", 0, config=config)
    return config


def newest(volume: Path) -> Step:
    step = newest_step(volume / "toy")
    assert step is not None
    return step


@pytest.mark.parametrize("field", HIDDEN)
def test_what_no_shape_shows_is_kept_and_said(field: str, tmp_path: Path) -> None:
    changes = {field: HIDDEN[field]}
    if field == "num_key_value_heads":  # the products have to stay
        changes["num_attention_heads"] = 4
    if field == "num_attention_heads":
        changes["num_key_value_heads"] = 2
    imported(tmp_path, **changes)
    train_toy(tmp_path, recipe(), last_step=1)
    published = load_model_config(newest(tmp_path))
    assert newest(tmp_path).number == 1
    assert getattr(published, field) == HIDDEN[field]
    log = (tmp_path / "toy" / "training.log").read_text()
    was = getattr(recipe().model, field)
    assert f"the imported model's value is kept: model.{field}: {was!r} → {HIDDEN[field]!r}" in log


def test_the_same_command_goes_on_with_the_kept_model(tmp_path: Path) -> None:
    imported(tmp_path, rope_theta=100_000.0, norm_eps=1e-6)
    train_toy(tmp_path, recipe(), last_step=1)
    train_toy(tmp_path, recipe(), last_step=2)
    train_toy(tmp_path, recipe("model.rope_theta=100000.0"), last_step=3)
    published = load_model_config(newest(tmp_path))
    assert (published.rope_theta, published.norm_eps) == (100_000.0, 1e-6)
    assert newest(tmp_path).number == 3


def test_a_resume_with_yet_another_value_is_refused(tmp_path: Path) -> None:
    imported(tmp_path, rope_theta=100_000.0)
    train_toy(tmp_path, recipe(), last_step=1)
    with pytest.raises(ValueError, match=r"model\.rope_theta: 100000\.0 → 500\.0"):
        train_toy(tmp_path, recipe("model.rope_theta=500.0"))


def test_a_model_of_another_shape_is_refused_with_every_field(tmp_path: Path) -> None:
    imported(tmp_path, intermediate_size=80, rope_theta=100_000.0)
    with pytest.raises(
        ValueError,
        match=r"toy@0 holds another model.*intermediate_size: 48 → 80; model\.rope_theta: 10000",
    ):
        train_toy(tmp_path, recipe())


def test_sequences_longer_than_the_kept_model_takes_are_refused(tmp_path: Path) -> None:
    imported(tmp_path, max_position_embeddings=8)
    with pytest.raises(ValueError, match=r"batch\.length 16 exceeds model\.max_position_emb"):
        train_toy(tmp_path, recipe())


def test_the_recipes_own_training_fields_stay(tmp_path: Path) -> None:
    imported(tmp_path, rope_theta=100_000.0)
    train_toy(tmp_path, recipe(), last_step=1)
    assert newest(tmp_path).manifest.details.model_config.dropout == recipe().model.dropout
    log = (tmp_path / "toy" / "training.log").read_text()
    assert "dropout:" not in log
