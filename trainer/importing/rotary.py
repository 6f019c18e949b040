"""What a file's rotary positions are, since its weights do not show it.

Ours rotate the two halves of a head against each other, as transformers' Llama does. Meta's own
Llama and what follows it rotate neighbours (interleaved): the same function once the query and
key rows are permuted.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from lm.config import ModelConfig

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


def check_frequencies(state: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Raise ``ValueError`` if the file keeps rotary frequencies that are not the config's."""
    for name, kept in state.items():
        if not name.endswith("inv_freq"):
            continue
        if config.positions != "rope":
            raise ValueError(f"{name}: the file's model has rotary positions, the recipe's has not")
        exponents = torch.arange(0, config.head_dim, 2) / config.head_dim
        expected = config.rope_theta**-exponents
        # Files in float16 keep the lowest ones with a per cent of error.
        if kept.shape != expected.shape or not torch.allclose(
            kept.float(), expected, rtol=0.02, atol=1e-6
        ):
            raise ValueError(
                f"{name} is not that of model.rope_theta {config.rope_theta:g}"
                f"{_implied_theta(kept)}"
            )


def _permuted(tensor: Tensor, num_heads: int) -> Tensor:
    """Rows (2j, 2j + 1) of each head moved to (j, j + half)."""
    pairs = tensor.reshape(num_heads, -1, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)


def _implied_theta(frequencies: Tensor) -> str:
    """The base that the second frequency gives, for an error; nothing if there is none."""
    if frequencies.ndim != 1 or len(frequencies) < 2 or frequencies[1] <= 0:
        return ""
    return f", it says about {float(frequencies[1].double()) ** -len(frequencies):.2g}"
