import hashlib
import math
from typing import Any

import pytest
import torch
from toys import toy_config, toy_decoder, toy_weights

from lm.model.decoder import Decoder
from lm.model.initialize import initialize


def digest(seed: int, **changes: Any) -> str:
    hashed = hashlib.sha256()
    for name, weight in sorted(toy_weights(seed, toy_config(**changes)).items()):
        hashed.update(name.encode() + weight.numpy().tobytes())
    return hashed.hexdigest()


def test_a_seed_decides_every_weight_whatever_was_drawn_before() -> None:
    first = digest(7)
    torch.manual_seed(123)
    torch.randn(1000)
    assert digest(7) == first
    assert digest(8) != first


def test_a_second_call_overwrites_what_training_left() -> None:
    decoder = toy_decoder(seed=4)
    fresh = {name: value.clone() for name, value in decoder.state_dict().items()}
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(1.0)
    initialize(decoder, 4)
    assert all(torch.equal(value, fresh[name]) for name, value in decoder.state_dict().items())


def test_pytorchs_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    decoder = Decoder(toy_config())
    torch.manual_seed(5)
    initialize(decoder, 1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("initializer_range", [None, 0.02])
@pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
def test_standard_deviations_are_the_configured_ones_and_smaller_into_the_residual(
    initializer_range: float | None, mlp: str
) -> None:
    config = toy_config(
        num_hidden_layers=8,
        hidden_size=128,
        intermediate_size=256,
        mlp=mlp,
        positions="learned",
        tie_word_embeddings=False,
        initializer_range=initializer_range,
    )
    base = initializer_range or 1 / math.sqrt(128)
    for name, weight in toy_decoder(config=config).state_dict().items():
        if "norm" in name:
            continue
        writes_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
        std = base / math.sqrt(16) if writes_residual else base
        assert float(weight.std()) == pytest.approx(std, rel=0.03), name
        assert float(weight.mean()) == pytest.approx(0.0, abs=4 * std / math.sqrt(weight.numel()))


def test_norms_begin_at_one_and_biases_at_zero() -> None:
    weights = toy_weights(config=toy_config(norm="layernorm", bias=True))
    norms = [value for name, value in weights.items() if name.endswith("norm.weight")]
    biases = [value for name, value in weights.items() if name.endswith("bias")]
    assert len(norms) == 5
    assert len(biases) == 5 + 2 * 7
    assert all(bool((value == 1.0).all()) for value in norms)
    assert all(bool((value == 0.0).all()) for value in biases)


def test_no_two_matrices_begin_alike() -> None:
    weights = toy_weights(config=toy_config(tie_word_embeddings=False))
    firsts = [float(value.flatten()[0]) for value in weights.values() if value.ndim == 2]
    assert len(set(firsts)) == len(firsts)


def test_a_fresh_model_predicts_nearly_uniformly() -> None:
    row = torch.arange(1, 200)[None]
    with torch.inference_mode():
        log_probabilities = toy_decoder()(row).log_softmax(-1)
    loss = -log_probabilities[0, :-1].gather(-1, row[0, 1:, None]).mean()
    assert float(loss) == pytest.approx(math.log(300), abs=0.6)
