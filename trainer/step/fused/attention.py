"""Causal attention in blocks of queries: products and a softmax that skip what no token may see.

PyTorch's fused kernel saves memory that training on a CPU does not need, and pays with a slow
backward pass there (``bench.attention`` measures both). Here a block of queries meets the keys up
to its own end, and its weights are kept for the backward pass. The function is the same; very
long rows, whose kept weights grow with the square, and GPUs have ``scaled_dot_product_attention``.

Shapes: B batch, T tokens, Hq query heads, Hkv key/value heads, D head width; N = B · Hkv,
G = Hq / Hkv query heads that share their keys, L queries of one block, S keys that they see.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lm.model.attention import Attend, CausalAttention

LONGEST_ROW = 2048
"""Tokens up to which the weights of a row are kept: 40 MB a layer and row of nine heads."""
BLOCK = 128
"""Queries of one block; half or twice as many were slower at 256 and at 2,048 tokens."""


def training_attention(inputs: Tensor, dropout: float) -> Attend:
    """The faster attention for rows of inputs [B, T]; a function of their shape and device."""
    if inputs.device.type == "cpu" and inputs.shape[1] <= LONGEST_ROW:
        return BlockwiseAttention(dropout)
    return CausalAttention(dropout)


class BlockwiseAttention:
    """``lm.model.attention.CausalAttention``, block by block, in the dtype of the values."""

    def __init__(self, dropout: float = 0.0) -> None:
        self.dropout = dropout

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See ``Attend``; ``layer`` does not matter here."""
        del layer
        batch, heads, length, width = query.shape
        shared = (batch * key.shape[1], length, width)
        grouped = (shared[0], heads // key.shape[1], length, width)
        # Autocast would soften the products of float32 queries and half-precision values.
        with torch.autocast(query.device.type, enabled=False):
            mixed: Tensor = _Blockwise.apply(  # type: ignore[no-untyped-call]
                (query / math.sqrt(width)).to(value.dtype).reshape(grouped),
                key.to(value.dtype).reshape(shared),
                value.reshape(shared),
                self.dropout,
            )
        return mixed.view(query.shape)


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        """Query [N, G, T, D], scaled, key and value [N, T, D] → mixed values [N, G, T, D]."""
        out, kept = torch.empty_like(query), []
        future = query.new_full((BLOCK, BLOCK), -math.inf).triu(1)
        for block, seen in _blocks(query.shape[2]):
            rows = query[:, :, block]
            scores = torch.bmm(rows.flatten(1, 2), key[:, seen].transpose(1, 2))  # [N, G L, S]
            size = rows.shape[2]
            scores.view(*rows.shape[:3], -1)[..., -size:].add_(future[:size, :size])
            weights = scores.softmax(-1)
            kept.append(weights)
            if dropout:
                kept.append(torch.empty_like(weights).bernoulli_(1 - dropout).div_(1 - dropout))
                weights = weights * kept[-1]
            out[:, :, block] = torch.bmm(weights, value[:, seen]).view_as(rows)
        ctx.dropout = dropout
        ctx.save_for_backward(query, key, value, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        of_query = torch.empty_like(query)
        exact = torch.promote_types(key.dtype, torch.float32)  # sums over blocks need it
        of_key, of_value = (torch.zeros(key.shape, dtype=exact) for _ in range(2))
        for block, seen in _blocks(query.shape[2]):
            out, rows = (t[:, :, block].flatten(1, 2) for t in (gradient, query))  # [N, G L, D]
            weights = kept.pop(0)
            masks = kept.pop(0) if ctx.dropout else None
            mixing = weights if masks is None else weights * masks
            of_value[:, seen] += torch.bmm(mixing.transpose(1, 2), out)
            of_mixing = torch.bmm(out, value[:, seen].transpose(1, 2))
            of_weights = of_mixing if masks is None else of_mixing * masks
            of_scores = torch.ops.aten._softmax_backward_data(  # noqa: SLF001
                of_weights, weights, -1, weights.dtype
            )
            of_query[:, :, block] = torch.bmm(of_scores, key[:, seen]).view_as(query[:, :, block])
            of_key[:, seen] += torch.bmm(of_scores.transpose(1, 2), rows)
        return of_query, of_key.to(key.dtype), of_value.to(value.dtype), None


def _blocks(length: int) -> Iterator[tuple[slice, slice]]:
    """Queries of each block, and the keys up to its end."""
    for first in range(0, length, BLOCK):
        end = min(first + BLOCK, length)
        yield slice(first, end), slice(0, end)
