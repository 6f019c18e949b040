import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import toy_config
from toys.properties import examples
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from lm.huggingface.config import from_hf, to_hf
from lm.model.config import ModelConfig

PUBLISHED = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 49152,
}
"""SmolLM2-135M's ``config.json`` as it was released, before transformers 5."""


def without(*names: str, **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in PUBLISHED.items() if name not in names} | changes


@st.composite
def llama_configs(draw: st.DrawFn) -> ModelConfig:
    key_value_heads = draw(st.integers(1, 3))
    heads = key_value_heads * draw(st.integers(1, 3))
    return toy_config(
        hidden_size=2 * heads * draw(st.integers(1, 8)),
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        rope_theta=draw(st.sampled_from([10_000.0, 100_000.0, 12_345.678])),
        norm_eps=draw(st.sampled_from([1e-5, 1e-6])),
        tie_word_embeddings=draw(st.booleans()),
        initializer_range=draw(st.sampled_from([0.02, 1 / 24])),
    )


@examples(50)
@given(llama_configs())
def test_a_llama_comes_back_from_its_config_json(config: ModelConfig) -> None:
    assert from_hf(json.loads(json.dumps(to_hf(config)))) == config


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": "learned", "dropout": 0.1, "initializer_range": 0.02},
        {"norm": "layernorm", "mlp": "gelu", "bias": True, "tie_word_embeddings": False},
        {"residual_scale": 1 / math.sqrt(2)},
    ],
    ids=str,
)
def test_any_other_shape_comes_back_under_our_own_model_type(changes: dict[str, Any]) -> None:
    config = toy_config(**changes)
    written = json.loads(json.dumps(to_hf(config)))
    assert written["model_type"] == "nestling"
    assert from_hf(written) == config


@examples(30)
@given(llama_configs())
def test_transformers_reads_what_we_write(config: ModelConfig) -> None:
    theirs = LlamaConfig(**to_hf(config, dtype="bfloat16"))
    assert str(theirs.dtype) == "torch.bfloat16"
    assert theirs.rope_parameters == {"rope_type": "default", "rope_theta": config.rope_theta}
    assert theirs.head_dim == config.head_dim
    assert theirs.rms_norm_eps == config.norm_eps
    for name in ("num_key_value_heads", "tie_word_embeddings", "max_position_embeddings"):
        assert getattr(theirs, name) == getattr(config, name)


@examples(30)
@given(llama_configs())
def test_we_read_what_transformers_5_writes(config: ModelConfig) -> None:
    theirs = LlamaConfig(**to_hf(config)).to_dict()
    assert "rope_theta" not in theirs
    assert from_hf(theirs) == config


def test_transformers_refuses_our_own_model_type_by_name(tmp_path: Path) -> None:
    written = to_hf(toy_config(positions="learned"))
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match="nestling"):
        AutoConfig.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="nestling"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_theta_is_written_for_every_version_of_transformers() -> None:
    written = to_hf(toy_config(rope_theta=100_000.0))
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"] == 100_000.0


def test_the_published_config_has_the_published_theta_length_and_size() -> None:
    config = from_hf(PUBLISHED)
    assert config.rope_theta == 100_000.0
    assert config.max_position_embeddings == 8192
    assert config.num_parameters == 134_515_008
    assert config.is_llama


@pytest.mark.parametrize(
    ("values", "theta"),
    [
        (without(rope_theta=5_000.0), 5_000.0),
        (without("rope_theta"), 10_000.0),
        (without("rope_theta", rope_parameters={"rope_theta": 7_000.0}), 7_000.0),
        (
            without(rope_parameters={"rope_type": "default", "rope_theta": 7_000}),
            7_000.0,  # as in transformers, the section wins over what stands beside it
        ),
        (without(rope_parameters={"rope_type": "default"}), 100_000.0),
        (without(rope_scaling={"type": "default"}), 100_000.0),
    ],
    ids=["old", "default", "section", "both", "section without theta", "old section"],
)
def test_theta_is_read_wherever_a_version_of_transformers_wrote_it(
    values: dict[str, Any], theta: float
) -> None:
    assert from_hf(values).rope_theta == theta
    assert LlamaConfig(**values).rope_parameters["rope_theta"] == theta


def test_absent_fields_take_transformers_defaults() -> None:
    names = ("num_key_value_heads", "tie_word_embeddings", "rms_norm_eps", "rope_theta")
    ours, theirs = from_hf(without(*names)), LlamaConfig(**without(*names))
    assert ours.num_key_value_heads == theirs.num_key_value_heads == 9
    assert ours.tie_word_embeddings is theirs.tie_word_embeddings is False
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mistral"}, "model_type 'mistral'"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "model_type 'mixtral'"),
        ({"model_type": None}, "model_type None"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling of type 'linear'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling of type 'llama3'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_scaling of type 'yarn'"),
        (
            {
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
                "rope_scaling": {"rope_type": "dynamic"},
            },
            "rope_scaling of type 'dynamic'",
        ),
        ({"sliding_window": 4096}, "sliding_window=4096"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial_rotary_factor=0.5",
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config="),
        ({"head_dim": 128}, "head_dim=128"),
    ],
    ids=str,
)
def test_what_our_decoder_does_not_compute_is_refused_by_name(
    changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        from_hf(without(**changes))


@pytest.mark.parametrize(
    "name", ["vocab_size", "hidden_size", "num_attention_heads", "max_position_embeddings"]
)
def test_a_missing_size_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"missing .*{name}"):
        from_hf(without(name))


@pytest.mark.parametrize("section", [None, "text", []])
def test_our_own_model_type_without_its_section_is_refused(section: object) -> None:
    with pytest.raises(ValueError, match="missing nestling"):
        from_hf({"model_type": "nestling", "nestling": section})


def test_an_unknown_key_of_our_own_section_is_refused_by_name() -> None:
    written = to_hf(toy_config(mlp="gelu"))
    written["nestling"]["head_count"] = 4
    with pytest.raises(ValueError, match="head_count"):
        from_hf(written)


def test_sizes_that_do_not_fit_are_refused_also_from_a_config_json() -> None:
    with pytest.raises(ValueError, match="hidden_size 577"):
        from_hf(without("head_dim", hidden_size=577))
