"""Attention as the decoder asks for it: a callable that owns masks and caches.

The decoder hands over one layer's queries, keys and values and gets the mixed values back; it
knows neither cache nor mode. Training passes ``CausalAttention``; the service passes attention
over its own cache. Both end in ``scaled_dot_product_attention``.

Shapes: B batch, T tokens, Hq query heads, Hkv key/value heads, D head width.
"""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor


class Attend(Protocol):
    """How one layer's tokens see each other and the past."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Mix values: query [B, Hq, T, D], key and value [B, Hkv, T, D] → [B, Hq, T, D]."""
        ...


class CausalAttention:
    """Each token sees itself and the tokens before it in its own row; nothing is kept."""

    def __init__(self, dropout: float = 0.0) -> None:
        self.dropout = dropout

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See ``Attend``; ``layer`` does not matter here."""
        del layer
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=self.dropout,
            is_causal=True,
            enable_gqa=query.shape[1] != key.shape[1],
        )
