"""One decoding step of a fixed shape, over tensors whose addresses never change.

Row i is slot i, whoever has it. Rows whose slot does not decode compute something too: they write
to their slot's scratch token, and nobody reads what they give.
"""

import torch
from torch import Tensor

from lm.model.decoder import Decoder
from service.engine.graphs.buckets import Bucket
from service.engine.graphs.cache import GraphCache
from service.engine.pytorch.attention import SlotAttention
from service.engine.pytorch.batch import Batch, DecodeRows
from service.engine.scheduling.plan import Plan

TOKEN, POSITION, PLACE, LENGTH = range(4)
"""Rows of the input: token id, its position, where its key goes, how many keys it may see."""


class StaticDecode:
    """Inputs are filled in, ``compute`` reads them and writes ``logits`` and ``is_finite``."""

    def __init__(self, decoder: Decoder, cache: GraphCache, bucket: Bucket) -> None:
        weight = decoder.lm_head.weight
        self._decoder = decoder
        self._cache = cache
        self._bucket = bucket
        idle = torch.tensor([[0], [0], [cache.scratch], [1]])
        self._idle = idle.expand(4, bucket.rows)
        is_pinned = weight.device.type == "cuda"
        self._host = torch.empty(4, bucket.rows, dtype=torch.int64, pin_memory=is_pinned)
        self._host.copy_(self._idle)
        self._input = self._idle.to(weight.device, copy=True)
        self._slots = torch.arange(bucket.rows, device=weight.device)
        self._places = torch.arange(bucket.length, device=weight.device)
        self._unmasked = weight.new_zeros(bucket.rows, bucket.length)
        rows = bucket.rows
        self.logits = weight.new_empty(rows, decoder.config.vocab_size)
        """[rows, V], of slot i in row i."""
        self.is_finite = torch.empty(rows, dtype=torch.bool, device=weight.device)
        """[rows], whether a row's hidden state is finite."""

    def fill(self, plan: Plan) -> None:
        """Take a plan of one token a sequence; a single copy to the device."""
        self._host.copy_(self._idle)
        slots = [chunk.slot for chunk in plan.chunks]
        self._host[:, slots] = torch.tensor(
            [
                [chunk.token_ids[0] for chunk in plan.chunks],
                [chunk.start for chunk in plan.chunks],
                [chunk.start for chunk in plan.chunks],
                [chunk.end for chunk in plan.chunks],
            ]
        )
        self._input.copy_(self._host, non_blocking=True)

    def compute(self) -> None:
        """The step; nothing in it waits for the device or depends on a value on the host."""
        hidden_keys = self._places >= self._input[LENGTH, :, None]
        rows = DecodeRows(
            count=self._bucket.rows,
            slots=slice(0, self._bucket.rows),
            length=self._bucket.length,
            # What attention would make of a mask of bools, in every layer again.
            mask=self._unmasked.masked_fill(hidden_keys, -torch.inf)[:, None, None],
        )
        batch = Batch(
            token_ids=self._input[TOKEN : TOKEN + 1],
            positions=self._input[PLACE : PLACE + 1],
            slots=self._slots,
            decode=rows,
            prefills=(),
            yielding_rows=self._slots,
        )
        positions = self._input[POSITION : POSITION + 1]
        attend = SlotAttention(self._cache, batch)
        hidden = self._decoder.hidden(batch.token_ids, positions, attend)[0]
        self.logits.copy_(self._decoder.head(hidden))
        self.is_finite.copy_(hidden.isfinite().all(-1))

    def results(self, plan: Plan) -> tuple[Tensor, tuple[bool, ...]]:
        """Logits [chunks, V] and finiteness of a plan's chunks, in its order."""
        slots = [chunk.slot for chunk in plan.chunks]
        finite: list[bool] = self.is_finite.tolist()
        wanted = torch.tensor(slots, device=self.logits.device)
        return self.logits.index_select(0, wanted), tuple(finite[slot] for slot in slots)
