import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from toys import toy_config, toy_decoder
from toys.properties import examples

from lm.model.config import ModelConfig
from lm.model.decoder import Decoder

SMOLLM2_135M = ModelConfig(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    rope_theta=100_000.0,
)
UNTIED = dataclasses.replace(SMOLLM2_135M, tie_word_embeddings=False)
LEARNED_POSITIONS = ModelConfig(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=9,
    max_position_embeddings=1024,
    positions="learned",
    mlp="gelu",
    residual_scale=1 / math.sqrt(2),
)
GPT_80M = ModelConfig(
    vocab_size=49_152,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=6,
    num_attention_heads=12,
    num_key_value_heads=12,
    max_position_embeddings=128,
    positions="learned",
    norm="layernorm",
    mlp="gelu",
    bias=True,
)
PUBLISHED_COUNTS = [
    pytest.param(SMOLLM2_135M, 134_515_008, id="smollm2-135m"),
    pytest.param(UNTIED, 162_826_560, id="untied"),
    pytest.param(LEARNED_POSITIONS, 121_833_792, id="learned-positions"),
    pytest.param(GPT_80M, 80_375_808, id="gpt-80m"),
]


def module_parameters(config: ModelConfig) -> int:
    with torch.device("meta"):
        decoder = Decoder(config)
    return sum(parameter.numel() for parameter in decoder.parameters())


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    key_value_heads = draw(st.integers(1, 3))
    heads = key_value_heads * draw(st.integers(1, 3))
    return ModelConfig(
        vocab_size=draw(st.integers(1, 50)),
        hidden_size=heads * 2 * draw(st.integers(1, 4)),
        intermediate_size=draw(st.integers(1, 40)),
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=draw(st.integers(1, 40)),
        positions=draw(st.sampled_from(["rope", "learned"])),
        norm=draw(st.sampled_from(["rmsnorm", "layernorm"])),
        mlp=draw(st.sampled_from(["swiglu", "gelu", "gelu_erf"])),
        bias=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
    )


@pytest.mark.parametrize(("config", "count"), PUBLISHED_COUNTS)
def test_the_systems_have_exactly_their_published_parameters(
    config: ModelConfig, count: int
) -> None:
    assert config.num_parameters == count
    assert module_parameters(config) == count


@examples(60)
@given(configs())
def test_the_arithmetic_of_parameters_agrees_with_the_modules(config: ModelConfig) -> None:
    assert config.num_parameters == module_parameters(config)


@pytest.mark.parametrize(("config", "count"), PUBLISHED_COUNTS)
def test_the_parts_sum_to_the_whole_and_none_is_empty(config: ModelConfig, count: int) -> None:
    parts = config.parameter_counts()
    assert sum(parts.values()) == count
    assert min(parts.values()) > 0
    assert ("lm_head" in parts) == (not config.tie_word_embeddings)
    assert ("embed_positions" in parts) == (config.positions == "learned")


def test_a_token_of_smollm2_takes_23_kilobytes_of_cache_in_bfloat16() -> None:
    assert SMOLLM2_135M.kv_bytes_per_token(2) == 2 * 30 * 3 * 64 * 2 == 23_040


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": False}, {"positions": "learned"}, {"mlp": "gelu"}],
    ids=str,
)
def test_flops_per_token_is_what_a_counter_counts(changes: dict[str, Any]) -> None:
    config = toy_config(**changes)
    decoder = toy_decoder(config=config)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        decoder(torch.zeros(2, 128, dtype=torch.int64)).sum().backward()
    norms = 6 * config.parameter_counts()["norms"]  # counted as multiplied, but not as a product
    assert counter.get_total_flops() / (2 * 128) + norms == config.flops_per_token(128)


def test_a_config_survives_json() -> None:
    config = toy_config(positions="learned", residual_scale=1 / math.sqrt(2), dropout=0.1)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("key", "neighbour"),
    [
        ("hiden_size", "hidden_size"),
        ("num_layers", "num_hidden_layers"),
        ("rope_tetha", "rope_theta"),
        ("tied_word_embedding", "tie_word_embeddings"),
        ("num_kv_heads", "num_key_value_heads"),
    ],
)
def test_an_unknown_key_is_refused_with_its_nearest_neighbour(key: str, neighbour: str) -> None:
    with pytest.raises(ValueError, match=f"unknown key '{key}'; did you mean '{neighbour}'"):
        ModelConfig.from_dict({**toy_config().to_dict(), key: 1})


def test_a_missing_key_is_refused_by_name() -> None:
    values = toy_config().to_dict()
    del values["vocab_size"]
    with pytest.raises(ValueError, match="vocab_size"):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("num_hidden_layers", -1),
        ("hidden_size", 64.0),
        ("hidden_size", "64"),
        ("num_hidden_layers", True),
        ("intermediate_size", None),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("dropout", math.nan),
        ("norm_eps", "1e-5"),
        ("norm_eps", None),
        ("rope_theta", 0),
        ("rope_theta", math.inf),
        ("residual_scale", math.nan),
        ("initializer_range", "0.02"),
        ("bias", "false"),
        ("tie_word_embeddings", 1),
        ("positions", "alibi"),
        ("norm", "batchnorm"),
        ("mlp", "relu"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_the_name_of_its_field(
    field: str, value: object
) -> None:
    with pytest.raises(ValueError, match=rf"model\.{field} "):
        toy_config(**{field: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 66}, "hidden_size 66 does not divide into num_attention_heads 4"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 does not divide into"),
        ({"hidden_size": 60}, "head_dim 15 must be even"),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_refused(
    changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        toy_config(**changes)


def test_odd_heads_are_fine_without_rotation() -> None:
    assert toy_config(hidden_size=60, positions="learned").head_dim == 15


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        toy_config().hidden_size = 32  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "is_llama"),
    [
        ({}, True),
        ({"tie_word_embeddings": False, "dropout": 0.1, "initializer_range": 0.02}, True),
        ({"positions": "learned"}, False),
        ({"norm": "layernorm"}, False),
        ({"mlp": "gelu"}, False),
        ({"bias": True}, False),
        ({"residual_scale": 0.5}, False),
    ],
    ids=str,
)
def test_only_llamas_own_shape_counts_as_llama(changes: dict[str, Any], is_llama: bool) -> None:
    assert toy_config(**changes).is_llama is is_llama


def test_fresh_weights_spread_by_the_width_unless_told_otherwise() -> None:
    assert toy_config().init_std == 1 / 8
    assert toy_config(initializer_range=0.02).init_std == 0.02
