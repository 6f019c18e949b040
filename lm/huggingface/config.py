"""``ModelConfig`` to and from a Hugging Face ``config.json``.

A Llama-shaped config is written as ``LlamaForCausalLM`` and opens with transformers as it is.
Every other shape is written with ``model_type: nestling``, so that ``Auto*`` refuses it clearly
instead of computing something else. Reading refuses by name what our decoder cannot compute.
"""

from collections.abc import Mapping
from typing import Any

from lm.model.config import ModelConfig

_LLAMA_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "tie_word_embeddings",
)

_ROPE_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
"""What the rotary section of a model without scaling may say."""


def to_hf(config: ModelConfig, *, dtype: str = "float32") -> dict[str, Any]:
    """Content of ``config.json`` for weights of the given dtype."""
    if not config.is_llama:
        return {"model_type": "nestling", "dtype": dtype, "nestling": config.to_dict()}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": dtype,
        **{name: getattr(config, name) for name in _LLAMA_FIELDS},
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "initializer_range": config.init_std,
        "attention_bias": False,
        "attention_dropout": config.dropout,
        "mlp_bias": False,
    }


def from_hf(values: Mapping[str, Any]) -> ModelConfig:
    """Read the content of a ``config.json``; raises ``ValueError`` for an unsupported feature.

    Whatever the values are, the message names the file.
    """
    try:
        return _from_hf(values)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        said = str(error)
        raise ValueError(said if "config.json" in said else f"config.json: {said}") from error


def _from_hf(values: Mapping[str, Any]) -> ModelConfig:
    if values.get("model_type") == "nestling":
        if not isinstance(values.get("nestling"), Mapping):
            raise ValueError("config.json: missing nestling")
        return ModelConfig.from_dict(values["nestling"])
    if values.get("model_type") != "llama":
        raise ValueError(
            f"config.json: model_type {values.get('model_type')!r} is not supported; "
            "nestling reads llama and its own"
        )
    sizes: dict[str, Any] = {name: values.get(name) for name in _LLAMA_FIELDS}
    if sizes["num_key_value_heads"] is None:
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    if sizes["tie_word_embeddings"] is None:
        sizes["tie_word_embeddings"] = False
    missing = [name for name, value in sizes.items() if value is None]
    if missing:
        raise ValueError(f"config.json: missing {', '.join(missing)}")
    for name, value in sizes.items():
        if name != "tie_word_embeddings" and (type(value) is not int or value < 1):
            raise ValueError(f"config.json: {name}={value!r} is no positive integer")
    _refuse_unsupported(values)
    return ModelConfig(
        **sizes,
        rope_theta=float(_rope(values).get("rope_theta", 10_000.0)),
        norm_eps=values.get("rms_norm_eps", 1e-6),
        initializer_range=values.get("initializer_range"),
    )


def _rope(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rotary settings: a section of its own since transformers 5, top-level before."""
    theta = values.get("rope_theta")
    if theta is not None and type(theta) not in (int, float):
        raise ValueError(f"config.json: rope_theta={theta!r} is not supported")
    made: dict[str, Any] = {"rope_theta": 10_000.0 if theta is None else theta}
    if "rope_theta" in values and theta is None and values.get("rope_parameters") is None:
        raise ValueError("config.json: rope_theta=None is not supported")
    for name in ("rope_parameters", "rope_scaling"):
        section = values.get(name)
        if section is None:
            continue
        if not isinstance(section, Mapping):
            raise ValueError(f"config.json: {name}={section!r} is not supported")
        made |= section
    theta = made["rope_theta"]
    if type(theta) not in (int, float):
        raise ValueError(f"config.json: rope_theta={theta!r} is not supported")
    return made


def _refuse_unsupported(values: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` naming the first feature that our decoder does not compute."""
    rope = _rope(values)
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type != "default":
        raise ValueError(f"config.json: rope_scaling of type {rope_type!r} is not supported")
    if unknown := sorted(rope.keys() - _ROPE_KEYS):
        raise ValueError(f"config.json: rope_scaling with {unknown[0]!r} is not supported")
    share = rope.get("partial_rotary_factor", values.get("partial_rotary_factor"))
    values = {**values, "partial_rotary_factor": share}
    unsupported = {
        "hidden_act": values.get("hidden_act", "silu") != "silu",
        "attention_bias": values.get("attention_bias") not in (None, False),
        "mlp_bias": values.get("mlp_bias") not in (None, False),
        "sliding_window": values.get("sliding_window") is not None,
        "quantization_config": values.get("quantization_config") is not None,
        "partial_rotary_factor": share not in (None, 1),
        "head_dim": values.get("head_dim") is not None
        and values["head_dim"] * values["num_attention_heads"] != values["hidden_size"],
    }
    for name, is_unsupported in unsupported.items():
        if is_unsupported:
            raise ValueError(f"config.json: {name}={values.get(name)!r} is not supported")
