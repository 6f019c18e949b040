"""Rotary position embedding (RoFormer, arXiv:2104.09864) in the half-split layout of Llama.

The table is float32 whatever the weights are, as in transformers: angles of thousands of radians
lose their meaning in bfloat16.
"""

import torch
from torch import Tensor


def rotary_table(max_positions: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each float32 [max_positions, head_dim], the two halves repeated."""
    cpu = torch.device("cpu")  # also when the weights are being laid out on the meta device
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64, device=cpu).float() / head_dim
    inverse_frequencies = 1.0 / (theta**exponents)
    steps = torch.arange(max_positions, dtype=torch.float32, device=cpu)
    angles = steps[:, None] * inverse_frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [..., tokens, head_dim] by tables [..., tokens, head_dim] of x's dtype."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
