"""The tensors that a step on a GPU reads and writes; their addresses never change.

Shapes: V vocabulary, C hidden width, I width of the MLP, Hq and Hkv heads of D numbers, L layers,
S slots, T tokens a slot, N rows of a step (one row is one token of one sequence).
"""

import dataclasses

import torch
from torch import Tensor

from lm.model.config import ModelConfig


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LayerWeights:
    """One block; projections that read the same input are one matrix."""

    attention_norm: Tensor
    """[C]."""
    qkv: Tensor
    """[(Hq + 2 Hkv) D, C]: queries, keys, values."""
    out: Tensor
    """[C, Hq D]."""
    mlp_norm: Tensor
    """[C]."""
    gate_up: Tensor
    """[2 I, C]: gate, then up."""
    down: Tensor
    """[C, I]."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DecoderWeights:
    """A decoder of the plain Llama shape (``ModelConfig.is_llama``)."""

    embedding: Tensor
    """[V, C]."""
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    """[C]."""
    head: Tensor
    """[V, C]; the embedding itself where the two are tied."""
    cos: Tensor
    """float32 [max positions, D / 2]."""
    sin: Tensor
    """float32 [max positions, D / 2]."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class KeyValues:
    """Keys and values of all slots."""

    key: Tensor
    """[L, S, Hkv, T, D], in the dtype of the weights."""
    value: Tensor
    """[L, S, Hkv, T, D]."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class StepRows:
    """Which token each row of a step is; int32 on the device."""

    token_ids: Tensor
    """[N]: the token, or -1 for the token that was drawn last for the row's slot."""
    positions: Tensor
    """[N]: position of the token in its sequence, below T."""
    slots: Tensor
    """[N]: slot of the sequence, or -1 for a row that computes nothing and writes no cache."""
    last_tokens: Tensor
    """[S]: the token that was drawn last for each slot."""


def empty_weights(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> DecoderWeights:
    """Weights of a shape, their numbers still to be copied in."""
    width, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    query, shared = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    layers = tuple(
        LayerWeights(
            attention_norm=empty(width),
            qkv=empty(query + 2 * shared, width),
            out=empty(width, query),
            mlp_norm=empty(width),
            gate_up=empty(2 * inner, width),
            down=empty(width, inner),
        )
        for _ in range(config.num_hidden_layers)
    )
    embedding = empty(config.vocab_size, width)
    angles = torch.empty(config.max_position_embeddings, head_dim // 2, device=device)
    return DecoderWeights(
        embedding=embedding,
        layers=layers,
        norm=empty(width),
        head=embedding if config.tie_word_embeddings else empty(config.vocab_size, width),
        cos=angles,
        sin=torch.empty_like(angles),
    )
