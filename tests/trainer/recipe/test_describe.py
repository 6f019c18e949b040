from io import StringIO

import pytest
from rich.console import Console
from toy_run import toy_recipe
from toys import toy_config

from lm.model.decoder import Decoder
from trainer.recipe.describe import print_description, print_recipes, summary, weights
from trainer.recipe.recipes import list_recipes, load_recipe

COUNTS = {
    "smollm2-135m": 134_515_008,
    "smollm2-135m-untied": 162_826_560,
    "smollm2-135m-learned": 121_833_792,
    "gpt-80m": 80_375_808,
}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_the_source_s_systems_have_exactly_their_parameters(name: str, count: int) -> None:
    recipe = load_recipe(name)
    assert recipe.model.num_parameters == count
    assert sum(shape.numel() * times for _, shape, times in weights(recipe.model)) == count


@pytest.mark.parametrize("name", list_recipes())
def test_the_table_of_weights_adds_up_for_every_recipe(name: str) -> None:
    config = load_recipe(name).model
    assert sum(shape.numel() * times for _, shape, times in weights(config)) == (
        config.num_parameters
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False},
        {"positions": "learned", "bias": True, "norm": "layernorm"},
    ],
)
def test_the_table_of_weights_is_that_of_the_real_modules(changes: dict[str, object]) -> None:
    config = toy_config(**changes)
    real = sum(parameter.numel() for parameter in Decoder(config).parameters())
    assert sum(shape.numel() * times for _, shape, times in weights(config)) == real


def described(name: str) -> str:
    file = StringIO()
    print_description(load_recipe(name), Console(file=file, width=100))
    return file.getvalue()


def test_a_description_shows_weights_parts_and_total() -> None:
    text = described("smollm2-135m")
    assert "in each of 30 layers" in text
    assert "self_attn.k_proj          192 x 576" in text
    assert "tied to embed_tokens" in text
    assert "embed_tokens   28,311,552   21.0%" in text
    assert "Total: 134,515,008 trainable parameters" in text
    assert "8 x 2048 x 4" in text


def test_the_summary_of_an_architecture_is_one_line() -> None:
    assert summary(load_recipe("smollm2-135m-untied").model) == (
        "30 layers of 576, 9 query and 3 key/value heads, swiglu 1536, rope positions, "
        "rmsnorm, untied head; 162,826,560 parameters: embed_tokens 28,311,552, "
        "attention 26,542,080, mlp 79,626,240, norms 35,136, lm_head 28,311,552"
    )


def test_a_description_says_what_a_step_counts() -> None:
    assert "5,050, which count micro steps" in described("smollm2-135m")
    assert "5,050, which count optimizer steps" in described("gpt-80m")


def test_an_untied_head_is_a_weight_of_its_own() -> None:
    text = described("smollm2-135m-untied")
    assert "tied to" not in text
    assert "lm_head        28,311,552" in text


def test_a_description_fits_a_terminal_of_80_columns() -> None:
    file = StringIO()
    print_description(load_recipe("smollm2-135m"), Console(file=file, width=80))
    assert "…" not in file.getvalue()


def test_a_model_too_large_for_memory_can_be_described() -> None:
    recipe = toy_recipe("model.hidden_size=65536", "model.intermediate_size=262144")
    file = StringIO()
    print_description(recipe, Console(file=file, width=100))
    assert f"{recipe.model.num_parameters:,}" in file.getvalue()


def test_the_list_names_every_recipe_with_its_size() -> None:
    file = StringIO()
    print_recipes(Console(file=file, width=120))
    for name in list_recipes():
        assert name in file.getvalue()
    assert "80,375,808" in file.getvalue()
