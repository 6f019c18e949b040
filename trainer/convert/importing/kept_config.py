"""A config that a ``torch.save`` file keeps beside its weights, held against the recipe's.

Weights fit a config that computes something else just as well; where a file says what no shape
shows, under any of the usual spellings, it has to agree.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from lm.model.config import ModelConfig

_PLACES = ("config", "model_config", "model_args", "hyper_parameters", "params", "args")
"""Keys of a config beside the weights: hand-written loops, nanoGPT, Lightning, Meta."""
_INSIDE = (*_PLACES, "model")
_FIELDS = {
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_key_value_heads", "n_kv_heads", "n_kv_head", "num_kv_heads"),
    "rope_theta": ("rope_theta", "rope_base", "rotary_base"),
    "norm_eps": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon", "layer_norm_eps"),
    "mlp": ("hidden_act", "activation_function", "activation", "mlp"),
    "norm": ("norm",),
    "positions": ("positions",),
    "residual_scale": ("residual_scale",),
}
"""Our fields that no shape shows, and how configs spell them."""
_OURS_ALONE = {"norm", "positions"}
"""Fields whose words mean something else in other configs."""
_ACTIVATIONS = {
    "silu": "swiglu",
    "swish": "swiglu",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu": "gelu_erf",
    "relu": None,
}
"""Hugging Face's names of the functions, and our MLP that has them."""
_NOT_COMPUTED = (
    "rope_scaling",
    "sliding_window",
    "final_logit_softcapping",
    "attn_logit_softcapping",
)
"""Keys that change the function and that no recipe could agree with."""


def refuse_other_config(content: Mapping[str, Any], config: ModelConfig) -> None:
    """Raise ``ValueError`` if a config in the file says otherwise than the recipe."""
    for kept in _configs(content):
        is_ours = "positions" in kept  # whose ``gelu`` is the tanh form
        for field, spellings in _FIELDS.items():
            for key in spellings:
                if key in kept and kept[key] is not None:
                    _compare(key, kept[key], field, config, is_ours=is_ours)
        for key in _NOT_COMPUTED:
            value = kept.get(key)
            if value and not (isinstance(value, Mapping) and value.get("rope_type") == "default"):
                raise ValueError(f"its config says {key} {value!r}, which is not supported")


def _configs(content: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every mapping that may be a config, one level of nesting deep."""
    for place in _PLACES:
        kept = content.get(place)
        if isinstance(kept, Mapping):
            yield kept
            yield from (kept[key] for key in _INSIDE if isinstance(kept.get(key), Mapping))


def _compare(key: str, value: Any, field: str, config: ModelConfig, *, is_ours: bool) -> None:
    ours = getattr(config, field)
    if field in _OURS_ALONE and not is_ours:
        return
    if field == "rope_theta" and config.positions != "rope":
        return
    if not isinstance(value, str | int | float):
        return
    if field == "mlp" and not is_ours:
        if value not in _ACTIVATIONS or (key == "activation" and value == "gelu"):
            return  # a word of their own, or one that says no form
        if _ACTIVATIONS[str(value)] == ours:
            return
    elif value == ours:
        return
    raise ValueError(f"its config says {key} {value}, the recipe's model.{field} is {ours}")
