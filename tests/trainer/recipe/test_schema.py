from typing import Any

import pytest

from lm.model.config import ModelConfig
from trainer.recipe.recipes import load_recipe, override
from trainer.recipe.schema import FREE_FIELDS, Recipe

MODEL = ModelConfig(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
)


def minimal() -> dict[str, Any]:
    return {
        "name": "test",
        "description": "a recipe",
        "model": MODEL.to_dict(),
        "tokenizer": {"vocab_size": 300},
        "sources": [{"name": "code", "corpus": "code"}, {"name": "math", "corpus": "math"}],
        "batch": {"micro_batch": 2, "length": 32},
        "optimizer": {"lr": 0.001},
        "phases": [{"name": "only", "steps": 10}],
        "cadence": {"checkpoint_every": 5, "eval_every": 5, "sample_every": 5},
    }


def changed(path: str, value: Any) -> dict[str, Any]:
    values = minimal()
    section: Any = values
    *parents, last = path.split(".")
    for part in parents:
        section = section[int(part) if part.isdecimal() else part]
    section[int(last) if last.isdecimal() else last] = value
    return values


def test_plain_data_comes_back() -> None:
    recipe = Recipe.from_dict(minimal())
    assert recipe.model == MODEL
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe.from_dict(minimal()).seed = 2


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sede", 1, "unknown key 'sede'; did you mean 'seed'?"),
        ("optimizer.lrate", 1, "optimizer: unknown key 'lrate'; did you mean 'lr'?"),
        ("phases.0.step", 1, "phases.0: unknown key 'step'; did you mean 'steps'?"),
        ("model.hiden_size", 1, "model: unknown key 'hiden_size'; did you mean 'hidden_size'?"),
        ("model.num_attention_heads", 5, "model.hidden_size 32 does not divide into"),
        ("phases.0.steps", "ten", "phases.0.steps: input should be a valid integer"),
        ("phases.0.steps", 0, "phases.0.steps: input should be greater than 0, got 0"),
        ("phases", [], "phases: tuple should have at least 1 item"),
        ("optimizer.lr", float("nan"), "optimizer.lr: input should be a finite number, got nan"),
        ("optimizer.name", "sgd", "optimizer.name: input should be 'adamw' or 'muon', got 'sgd'"),
        ("optimizer.betas", [0.9, 1.0], "optimizer.betas.1: input should be less than 1, got 1.0"),
        ("optimizer.grad_clip", 0, "optimizer.grad_clip: input should be greater than 0, got 0"),
        ("phases.0.lr", -1e-3, "phases.0.lr: input should be greater than 0, got -0.001"),
        ("sample_prompts", [""], "sample_prompts.0: string should have at least 1 character"),
        ("seed", 2**31, "seed: input should be less than 2147483648, got 2147483648"),
        ("batch.length", 65, "batch.length 65 exceeds model.max_position_embeddings 64"),
        ("tokenizer.vocab_size", 301, "tokenizer.vocab_size 301 exceeds model.vocab_size 300"),
        ("sources.1.name", "code", "sources: names must differ, they are code, code"),
        ("sources.0.corpus", "poems", "sources.0: corpus 'poems' is none of shakespeare, code"),
        ("sources.0.validation_plays", ["hamlet"], "sources.0: validation_plays: corpus 'code'"),
    ],
)
def test_a_fault_is_one_line_with_its_key(path: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        Recipe.from_dict(changed(path, value))
    assert str(error.value).startswith(message)


def test_a_missing_key_is_named() -> None:
    values = minimal()
    del values["optimizer"]["lr"]
    with pytest.raises(ValueError, match=r"^optimizer\.lr: missing$"):
        Recipe.from_dict(values)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "needs validation_plays"),
        ({"validation_plays": ["hamlet"], "validation_fraction": 0.2}, "validation_fraction"),
    ],
)
def test_plays_are_split_by_plays_alone(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict(changed("sources.0", {"name": "s", "corpus": "shakespeare", **source}))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([(0, {"code": 0.5, "maths": 0.5})], "stages.0.weights: unknown key 'maths'; did you"),
        ([(0, {"code": 0.5, "math": 0.4})], "stages.0: weights must sum to 1, they sum to 0.9"),
        ([(5, {"code": 1.0})], "stages.0.first_step must be 0, it is 5"),
        ([(0, {"code": 1.0}), (0, {"math": 1.0})], "stages: first_step must ascend"),
    ],
)
def test_stages_name_sources_sum_to_1_and_ascend_from_0(
    stages: list[tuple[int, dict[str, float]]], message: str
) -> None:
    listed = [
        {"name": f"stage {index}", "first_step": first_step, "weights": weights}
        for index, (first_step, weights) in enumerate(stages)
    ]
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict(changed("stages", listed))


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ({"source": "weights", "vocab_size": 290}, "'weights' has a vocabulary of its own"),
        ({"source": "weights", "offline_fallback": True}, "'weights' is not of the Hub"),
    ],
)
def test_tokenizer_keys_that_would_be_ignored_are_refused(
    tokenizer: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict(changed("tokenizer", tokenizer))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"name": "cosine", "decay_start": 3}, "decay_start: schedule 'cosine' has none"),
        ({"name": "constant", "floor": 0.5}, "floor: schedule 'constant' does not fall"),
    ],
)
def test_a_schedule_has_what_its_kind_has(schedule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^phases\.0\.schedule: {message}"):
        Recipe.from_dict(changed("phases.0.schedule", schedule))


def test_the_hash_covers_exactly_what_must_stay_in_mid_run() -> None:
    recipe = load_recipe("tiny")
    assert set(recipe.to_dict()) - set(recipe.binding()) == FREE_FIELDS
    free = override(
        recipe, ["description=x", "source=y", "cadence.eval_every=7", "sample_prompts=[x]"]
    )
    assert free.recipe_hash == recipe.recipe_hash
    assert free.binding() == recipe.binding()
    assert len(recipe.recipe_hash) == 64
    for change in ("seed=1", "optimizer.eps=1e-7", "phases.0.steps=9", "model.dropout=0.2"):
        changed_recipe = override(recipe, [change])
        assert changed_recipe.recipe_hash != recipe.recipe_hash
        assert changed_recipe.binding() != recipe.binding()


def test_numbers_in_scientific_notation_are_numbers() -> None:
    assert Recipe.from_dict(changed("optimizer.lr", "1e-3")).optimizer.lr == 1e-3
