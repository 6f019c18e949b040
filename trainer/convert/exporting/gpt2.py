"""Our decoder as transformers' ``GPT2LMHeadModel``, where both compute the same function.

GPT-2 keeps its matrices [in, out] (``Conv1D``) and query, key and value in one. A model without
biases becomes one whose biases are zero.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lm.model.config import ModelConfig

_ACTIVATIONS = {"gelu": "gelu_new", "gelu_erf": "gelu"}
_MATRICES = {
    "attn.c_proj": "self_attn.o_proj",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}
_NORMS = {"ln_1": "input_layernorm", "ln_2": "post_attention_layernorm"}


def is_gpt2(config: ModelConfig) -> bool:
    """Whether transformers' GPT-2 computes the same function."""
    return (
        config.positions == "learned"
        and config.norm == "layernorm"
        and config.mlp in _ACTIVATIONS
        and config.num_key_value_heads == config.num_attention_heads
        and config.residual_scale == 1.0
    )


def gpt2_config(config: ModelConfig, *, dtype: str) -> dict[str, Any]:
    """Content of ``config.json``."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "n_positions": config.max_position_embeddings,
        "n_embd": config.hidden_size,
        "n_layer": config.num_hidden_layers,
        "n_head": config.num_attention_heads,
        "n_inner": config.intermediate_size,
        "activation_function": _ACTIVATIONS[config.mlp],
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": config.init_std,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def gpt2_weights(config: ModelConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by GPT-2's names and in its layout; new tensors where the layout differs."""
    theirs = {
        "transformer.wte.weight": weights["model.embed_tokens.weight"],
        "transformer.wpe.weight": weights["model.embed_positions.weight"],
        **_norm("transformer.ln_f", "model.norm", weights),
    }
    for layer in range(config.num_hidden_layers):
        to, of = f"transformer.h.{layer}", f"model.layers.{layer}"
        for norm, ours in _NORMS.items():
            theirs |= _norm(f"{to}.{norm}", f"{of}.{ours}", weights)
        for matrix, ours in _MATRICES.items():
            theirs |= _conv1d(f"{to}.{matrix}", [f"{of}.{ours}"], weights)
        query_key_value = [f"{of}.self_attn.{letter}_proj" for letter in "qkv"]
        theirs |= _conv1d(f"{to}.attn.c_attn", query_key_value, weights)
    if not config.tie_word_embeddings:
        theirs["lm_head.weight"] = weights["lm_head.weight"]
    return theirs


def _norm(name: str, ours: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weight = weights[f"{ours}.weight"]
    return {
        f"{name}.weight": weight,
        f"{name}.bias": weights.get(f"{ours}.bias", torch.zeros_like(weight)),
    }


def _conv1d(name: str, ours: list[str], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Linear projections stacked and transposed, with biases."""
    weight = torch.cat([weights[f"{one}.weight"] for one in ours])
    biases = [
        weights.get(f"{one}.bias", weight.new_zeros(len(weights[f"{one}.weight"]))) for one in ours
    ]
    return {f"{name}.weight": weight.T.contiguous(), f"{name}.bias": torch.cat(biases)}
