"""What a file's rotary positions are, since its weights do not show it.

Ours rotate the two halves of a head against each other, as transformers' Llama does. Meta's own
Llama and what follows it rotate neighbours (interleaved): the same function once the query and
key rows are permuted.
"""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from lm.model.config import ModelConfig

Rotary = Literal["half", "interleaved"]


def guess_rotary(names: Mapping[str, Tensor]) -> Rotary:
    """``interleaved`` for Meta's names, ``half`` for any other."""
    return "interleaved" if any("attention.wq." in name for name in names) else "half"


def deinterleaved(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Weights by our names, the query and key rows that were neighbours put into halves.

    A projection of another number of rows is left as it is, for the shape check to name.
    """
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    moved = dict(weights)
    for name, tensor in weights.items():
        num_heads = heads.get(name.split(".")[-2], 0)
        if num_heads and tensor.shape[:1] == (num_heads * config.head_dim,):
            moved[name] = _permuted(tensor, num_heads)
    return moved


def _permuted(tensor: Tensor, num_heads: int) -> Tensor:
    """Rows (2j, 2j + 1) of each head moved to (j, j + half)."""
    pairs = tensor.reshape(num_heads, -1, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)
