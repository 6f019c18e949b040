"""Copies published weights into the buffers of a step, without memory for anything between."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lm.model.config import ModelConfig
from lm.model.rotary import rotary_table
from lm.safetensors_file import Piece
from service.engine.gpu.tensors import DecoderWeights

Copy = Callable[[Tensor, Tensor], object]
"""Writes rows to a tensor of their shape."""


def fill(
    weights: DecoderWeights, config: ModelConfig, pieces: Iterable[Piece], copy: Copy = Tensor.copy_
) -> None:
    """Copy every tensor of a model to its place; ``StagedCopy.copy`` does so through pinned memory.

    Raises ``ValueError`` naming what is missing, left over or of another shape; the buffers hold
    a mixture then.
    """
    places = _places(weights, config)
    missing = dict.fromkeys(places)
    for piece in pieces:
        if piece.name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if piece.name not in places:
            raise ValueError(f"weights do not fit the config: {piece.name} is left over")
        target = places[piece.name]
        if tuple(target.shape) != piece.shape:
            raise ValueError(
                f"weights do not fit the config: {piece.name} has shape {list(piece.shape)}, "
                f"not {list(target.shape)}"
            )
        copy(target[piece.first_row : piece.first_row + len(piece.rows)], piece.rows)
        missing.pop(piece.name, None)
    if missing:
        raise ValueError(f"weights do not fit the config: {next(iter(missing))} is missing")
    half = config.head_dim // 2
    tables = rotary_table(config.max_position_embeddings, config.head_dim, config.rope_theta)
    for target, table in zip((weights.cos, weights.sin), tables, strict=True):
        target.copy_(table[:, :half])


def tensors_of(state: Iterable[tuple[str, Tensor]]) -> Iterable[Piece]:
    """A model's tensors in memory as pieces."""
    for name, tensor in state:
        yield Piece(name, tuple(tensor.shape), 0, tensor.detach())


def _places(weights: DecoderWeights, config: ModelConfig) -> dict[str, Tensor]:
    """Where each published tensor goes, by its name."""
    query = config.num_attention_heads * config.head_dim
    shared = config.num_key_value_heads * config.head_dim
    places = {"model.embed_tokens.weight": weights.embedding, "model.norm.weight": weights.norm}
    if not config.tie_word_embeddings:
        places["lm_head.weight"] = weights.head
    for number, layer in enumerate(weights.layers):
        prefix = f"model.layers.{number}."
        q, k, v = torch.split(layer.qkv, [query, shared, shared])
        gate, up = layer.gate_up.chunk(2)
        places |= {
            f"{prefix}input_layernorm.weight": layer.attention_norm,
            f"{prefix}self_attn.q_proj.weight": q,
            f"{prefix}self_attn.k_proj.weight": k,
            f"{prefix}self_attn.v_proj.weight": v,
            f"{prefix}self_attn.o_proj.weight": layer.out,
            f"{prefix}post_attention_layernorm.weight": layer.mlp_norm,
            f"{prefix}mlp.gate_proj.weight": gate,
            f"{prefix}mlp.up_proj.weight": up,
            f"{prefix}mlp.down_proj.weight": layer.down,
        }
    return places
