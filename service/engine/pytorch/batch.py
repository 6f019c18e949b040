"""Lays a plan out as tensors: all tokens of a step in one row, decoding sequences first.

One flat row means that every linear layer runs once a step over all tokens, whoever they belong
to; only attention looks at sequences apart.
"""

import dataclasses
import itertools

import torch
from torch import Tensor

from service.engine.scheduling.plan import Chunk, Plan


@dataclasses.dataclass(frozen=True)
class PrefillSpan:
    """A chunk of several tokens inside the flat row."""

    slot: int
    rows: slice
    """Where its tokens are in the flat row."""
    start: int
    """Position of its first token in the sequence."""
    end: int
    mask: Tensor | None
    """Bool [tokens, end], true where a token may look; ``None`` is plainly causal."""


@dataclasses.dataclass(frozen=True)
class DecodeRows:
    """Sequences of one new token each: the first rows of the flat row."""

    count: int
    slots: slice | Tensor
    """Their slots: a slice where they are neighbours, else int64 [count]."""
    length: int
    """Longest sequence, its new token included."""
    mask: Tensor
    """[count, 1, 1, length]: bool, true where a token may look, or what is added to its scores."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """One step as the runner needs it; N is the number of tokens."""

    token_ids: Tensor
    """int64 [1, N]."""
    positions: Tensor
    """int64 [1, N]."""
    slots: Tensor
    """int64 [N]: slot of each token."""
    decode: DecodeRows | None
    prefills: tuple[PrefillSpan, ...]
    yielding_rows: Tensor
    """int64 [R]: the last ``num_logits`` rows of each chunk, in the order of the plan."""


def build_batch(plan: Plan, device: torch.device) -> Batch:
    """Tensors of a plan; its chunks of a single token come first and by slot."""
    chunks = plan.chunks
    decoding = sum(chunk.num_tokens == 1 for chunk in chunks)
    ends = itertools.accumulate(chunk.num_tokens for chunk in chunks)
    yielding = [
        row
        for chunk, end in zip(chunks, ends, strict=True)
        for row in range(end - chunk.num_logits, end)
    ]
    positions = [position for chunk in chunks for position in range(chunk.start, chunk.end)]
    return Batch(
        token_ids=torch.tensor(
            [[token for chunk in chunks for token in chunk.token_ids]], device=device
        ),
        positions=torch.tensor([positions], device=device),
        slots=torch.tensor(
            [chunk.slot for chunk in chunks for _ in range(chunk.num_tokens)], device=device
        ),
        decode=_decode_rows(chunks[:decoding], device) if decoding else None,
        prefills=_prefill_spans(chunks[decoding:], decoding, device),
        yielding_rows=torch.tensor(yielding, dtype=torch.int64, device=device),
    )


def _decode_rows(chunks: tuple[Chunk, ...], device: torch.device) -> DecodeRows:
    slots = [chunk.slot for chunk in chunks]
    ends = torch.tensor([chunk.end for chunk in chunks], device=device)
    length = max(chunk.end for chunk in chunks)
    neighbours = slots == list(range(slots[0], slots[0] + len(slots)))
    mask = torch.arange(length, device=device) < ends[:, None]
    return DecodeRows(
        count=len(chunks),
        slots=slice(slots[0], slots[0] + len(slots))
        if neighbours
        else torch.tensor(slots, device=device),
        length=length,
        mask=mask[:, None, None],
    )


def _prefill_spans(
    chunks: tuple[Chunk, ...], first_row: int, device: torch.device
) -> tuple[PrefillSpan, ...]:
    spans = []
    row = first_row
    for chunk in chunks:
        rows = slice(row, row + chunk.num_tokens)
        mask = None
        if chunk.start > 0:
            may_see = torch.arange(chunk.end, device=device)
            mask = may_see <= torch.arange(chunk.start, chunk.end, device=device)[:, None]
        spans.append(PrefillSpan(chunk.slot, rows, chunk.start, chunk.end, mask))
        row = rows.stop
    return tuple(spans)
