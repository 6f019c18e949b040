"""Causal attention for short rows on CPUs: two matrix products and a softmax.

PyTorch's fused kernel saves memory that short rows do not need, and pays with a slow backward
pass on a CPU (``bench.attention`` measures both). The function is the same; long rows and GPUs
keep ``scaled_dot_product_attention``.

Shapes: B batch, T tokens, Hq query heads, Hkv key/value heads, D head width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.attention import Attend, CausalAttention

LONGEST_SHORT_ROW = 512
"""Tokens up to which the scores of a whole row are cheaper to keep than to compute again."""


def training_attention(inputs: Tensor, dropout: float) -> Attend:
    """The faster attention for rows of inputs [B, T]; a function of their shape and device."""
    if inputs.device.type == "cpu" and inputs.shape[1] <= LONGEST_SHORT_ROW:
        return ShortCausalAttention(dropout)
    return CausalAttention(dropout)


class ShortCausalAttention:
    """``lm.attention.CausalAttention`` with all scores in memory, in the dtype of the values."""

    def __init__(self, dropout: float = 0.0) -> None:
        self.dropout = dropout
        self._mask: Tensor | None = None

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See ``Attend``; ``layer`` does not matter here."""
        del layer
        batch, heads, length, width = query.shape
        key_heads = key.shape[1]
        # A group's query heads share their keys: they are more rows of one product.
        rows = (batch * key_heads, heads // key_heads * length, width)
        columns = (batch * key_heads, length, width)
        with torch.autocast(query.device.type, enabled=False):  # it would soften to float32
            query, key = query.to(value.dtype).reshape(rows), key.to(value.dtype).reshape(columns)
            scores = torch.baddbmm(
                self._masked(query, rows[1], length),
                query,
                key.transpose(1, 2),
                alpha=1.0 / math.sqrt(width),
            )
            weights = (
                F.dropout(scores.softmax(-1), self.dropout) if self.dropout else scores.softmax(-1)
            )
            mixed = torch.bmm(weights, value.reshape(columns))
        return mixed.view(batch, heads, length, width)

    def _masked(self, like: Tensor, num_rows: int, length: int) -> Tensor:
        """Zero where a row's token may look and -inf elsewhere, [1, num_rows, T]."""
        if self._mask is None:
            future = like.new_full((length, length), -math.inf).triu(1)
            self._mask = future.repeat(num_rows // length, 1)[None]
        return self._mask
