"""A config beside the weights has to agree with the recipe in all that no shape shows."""

import dataclasses
from typing import Any

import pytest

from trainer.convert.importing.kept_config import refuse_other_config
from trainer.recipe.recipes import load_recipe

LLAMA = load_recipe("smollm2-135m").model
GPT2 = load_recipe("gpt-80m").model


@pytest.mark.parametrize(
    ("kept", "named"),
    [
        ({"n_kv_heads": 9}, "n_kv_heads 9"),
        ({"rope_base": 5.0}, "rope_base 5"),
        ({"norm_eps": 0.1}, "norm_eps 0.1"),
        ({"hidden_act": "gelu_new"}, "hidden_act gelu_new, the recipe's model.mlp is swiglu"),
        ({"hidden_act": "relu"}, "hidden_act relu"),
        ({"residual_scale": 0.5}, "residual_scale 0.5"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling .* is not supported"),
        ({"sliding_window": 64}, "sliding_window 64, which is not supported"),
    ],
)
@pytest.mark.parametrize("place", ["config", "model_args", "hyper_parameters"])
def test_a_value_of_another_model_is_refused(kept: dict[str, Any], named: str, place: str) -> None:
    with pytest.raises(ValueError, match=f"its config says {named}"):
        refuse_other_config({place: kept}, LLAMA)
    with pytest.raises(ValueError, match=f"its config says {named}"):
        refuse_other_config({place: {"model": kept}}, LLAMA)


def test_the_two_forms_of_gelu_are_told_apart() -> None:
    refuse_other_config({"config": {"activation_function": "gelu_new"}}, GPT2)
    with pytest.raises(ValueError, match=r"activation_function gelu, .* model\.mlp is gelu$"):
        refuse_other_config({"config": {"activation_function": "gelu"}}, GPT2)


def test_our_own_config_agrees_with_itself_and_with_nothing_else() -> None:
    for config in (LLAMA, GPT2):
        refuse_other_config({"config": config.to_dict()}, config)
    other = dataclasses.replace(GPT2, norm="rmsnorm").to_dict()
    with pytest.raises(ValueError, match=r"its config says norm rmsnorm"):
        refuse_other_config({"config": other}, GPT2)


def test_words_of_other_programs_are_no_disagreement() -> None:
    refuse_other_config({"config": {"norm": "rms", "activation": "gelu", "lr": 1.0}}, LLAMA)
    refuse_other_config({"args": None, "config": [1]}, LLAMA)
    refuse_other_config({"config": {"activation": ["silu"], "norm": {"eps": 1}}}, LLAMA)
