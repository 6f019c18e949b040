"""Attention of one step over the slot cache, as the decoder's ``attend``.

Shapes: N tokens of the step, Hq and Hkv query and key/value heads, G = Hq / Hkv, D head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from service.engine.pytorch.batch import Batch, DecodeRows, PrefillSpan
from service.engine.pytorch.cache import SlotCache


class SlotAttention:
    """Writes the step's keys and values to their slots, then lets each token see its own."""

    def __init__(self, cache: SlotCache, batch: Batch) -> None:
        self._cache = cache
        self._batch = batch

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See ``lm.model.attention.Attend``; the step is one row: query [1, Hq, N, D]."""
        batch = self._batch
        self._cache.write(
            layer,
            batch.slots,
            batch.positions[0],
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
        )
        parts = []
        if batch.decode is not None:
            parts.append(self._decode(layer, query[0, :, : batch.decode.count], batch.decode))
        parts.extend(
            self._prefill(
                layer, query[:, :, span.rows], key[:, :, span.rows], value[:, :, span.rows], span
            )
            for span in batch.prefills
        )
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _decode(self, layer: int, query: Tensor, rows: DecodeRows) -> Tensor:
        """One token of each sequence: query [Hq, B, D] → [1, Hq, B, D].

        The query heads that share a key head are folded into the query length: several times
        faster on CPUs than repeating the keys.
        """
        key, value = self._cache.read(layer, rows.slots, rows.length)
        folded = query.transpose(0, 1).reshape(rows.count, key.shape[1], -1, query.shape[-1])
        out = F.scaled_dot_product_attention(folded, key, value, attn_mask=rows.mask)
        return out.flatten(1, 2).transpose(0, 1)[None]

    def _prefill(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, span: PrefillSpan
    ) -> Tensor:
        """A chunk of one sequence: query [1, Hq, n, D] → [1, Hq, n, D]."""
        if span.start > 0:
            key, value = self._cache.read(layer, slice(span.slot, span.slot + 1), span.end)
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=span.mask,
            is_causal=span.mask is None,
            enable_gqa=query.shape[1] != key.shape[1],
        )
