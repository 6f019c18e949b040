"""Attention of tiles of consecutive tokens over the slot cache, with an online softmax.

A tile is up to TILE rows of one sequence. The query heads that share a key head are folded into
the rows of its product: a program computes ROWS (token, head) pairs of one tile and one key head,
token by token, and reads the keys up to the last of its tokens. Softmax in one pass over blocks of
keys: FlashAttention-2, arXiv:2307.08691. A long context is split among programs, the last of which
to end merges them: a few rows alone would leave most of the card idle. The plain definition is
``service.engine.pytorch.attention``.

Shapes: N rows of a step, M tiles, Hq and Hkv heads of D numbers, G = Hq / Hkv, S slots, T tokens a
slot.
"""

import dataclasses
import math
from typing import Self

import torch
import triton
import triton.language as tl
from torch import Tensor

from service.engine.gpu.kernels.launch import Launch, allow_next, wait_for_inputs
from service.engine.gpu.tensors import StepRows

LOG2_E = math.log2(math.e)


@triton.jit
def _over_keys(
    mixed, peak, total, query, key_cache, value_cache, positions, begin, end, scale,
    D: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Continue the softmax over keys [begin, end); MASKED if some row sees fewer of them."""
    column = tl.arange(0, WIDTH)
    for start in range(begin, end, KEYS):
        token = start + tl.arange(0, KEYS)
        inside = column[None, :] < D
        if MASKED:
            inside = inside & (token[:, None] < end)
        offsets = token[:, None] * D + column[None, :]
        key = tl.load(key_cache + offsets, mask=inside, other=0.0)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        if MASKED:
            scores = tl.where(token[None, :] <= positions[:, None], scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        shift = new_peak
        if MASKED:  # a row that has seen no key yet must not take infinity from infinity
            shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        fade = tl.exp2(peak - shift)
        weights = tl.exp2(scores - shift[:, None])
        total = total * fade + tl.sum(weights, axis=1)
        value = tl.load(value_cache + offsets, mask=inside, other=0.0)
        mixed = mixed * fade[:, None]
        mixed = tl.dot(weights.to(value.dtype), value, mixed, input_precision="ieee")
        peak = new_peak
    return mixed, peak, total


@triton.jit
def _seen(
    query, key_cache, value_cache, positions, begin, seen_by_all, end, scale,
    D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Softmax over keys [begin, end), of which those below ``seen_by_all`` need no mask."""
    mixed, total = tl.zeros((ROWS, WIDTH), tl.float32), tl.zeros((ROWS,), tl.float32)
    peak = tl.full((ROWS,), float("-inf"), tl.float32)
    mixed, peak, total = _over_keys(
        mixed, peak, total, query, key_cache, value_cache, positions, begin, seen_by_all, scale,
        D, WIDTH, KEYS, MASKED=False,
    )  # fmt: skip
    return _over_keys(
        mixed, peak, total, query, key_cache, value_cache, positions, seen_by_all, end, scale,
        D, WIDTH, KEYS, MASKED=True,
    )  # fmt: skip


@triton.jit
def _hand_over(
    mixed, peak, total, peaks, totals, sums, counter, offset,
    pair_index, live, inside, valid, column, D: tl.constexpr,
):  # fmt: skip
    """Leave a split's part of these pairs for the last of them; whether this one is the last."""
    place = offset + pair_index
    tl.store(peaks + place, peak, mask=valid)
    tl.store(totals + place, total, mask=valid)
    tl.store(sums + place[:, None] * D + column[None, :], mixed, mask=inside)
    tl.debug_barrier()  # all threads have stored before one of them counts
    return tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == live - 1


@triton.jit
def _merged(
    peaks, totals, sums, counter, pair_index, stride, live, inside, valid, column,
    D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Sum of what the live splits of these pairs left, and its weight."""
    tl.store(counter, 0)  # the next layer counts anew
    mixed = tl.zeros((ROWS, WIDTH), tl.float32)
    peak = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for split in range(live):
        place = pair_index + split * stride
        theirs = tl.load(peaks + place, mask=valid, other=0.0, cache_modifier=".cg")
        weight = tl.load(totals + place, mask=valid, other=1.0, cache_modifier=".cg")
        part = tl.load(
            sums + place[:, None] * D + column[None, :],
            mask=inside, other=0.0, cache_modifier=".cg",
        )  # fmt: skip
        new_peak = tl.maximum(peak, theirs)
        fade, factor = tl.exp2(peak - new_peak), tl.exp2(theirs - new_peak)
        total = total * fade + weight * factor
        mixed = mixed * fade[:, None] + part * factor[:, None]
        peak = new_peak
    return mixed, total


@triton.jit
def _tile_attention(
    qkv, tiles, positions, slots, key_cache, value_cache, out, T, span, N, scale,
    counters, peaks, totals, sums,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, PARTS: tl.constexpr,
    SPLITS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Tiles are the slowest axis of the grid, so that those without rows come last."""
    allow_next(PDL)
    wait_for_inputs(PDL)
    GROUP: tl.constexpr = HQ // HKV
    part, split = tl.program_id(0) % PARTS, tl.program_id(0) // PARTS
    shared, tile = tl.program_id(1), tl.program_id(2)
    first_row = tl.load(tiles + 2 * tile)
    count = tl.load(tiles + 2 * tile + 1)
    if part * ROWS >= count * GROUP:
        return
    first_position = tl.load(positions + first_row)
    last = first_position + tl.minimum(count, (part * ROWS + ROWS - 1) // GROUP + 1)
    if split * span >= last:
        return
    slot = tl.load(slots + first_row).to(tl.int64)
    key_cache += (slot * HKV + shared) * T * D
    value_cache += (slot * HKV + shared) * T * D
    pair = part * ROWS + tl.arange(0, ROWS)
    row = pair // GROUP
    head = shared * GROUP + pair % GROUP
    column = tl.arange(0, WIDTH)
    valid = row < count
    inside = valid[:, None] & (column < D)[None, :]
    where = (first_row + row).to(tl.int64)
    query = tl.load(
        qkv + (where * (HQ + 2 * HKV) + head)[:, None] * D + column[None, :], mask=inside, other=0.0
    )
    begin, end = split * span, tl.minimum(last, (split + 1) * span)
    seen_by_all = (first_position + part * ROWS // GROUP + 1) // KEYS * KEYS
    seen_by_all = tl.maximum(begin, tl.minimum(seen_by_all, end))
    mixed, peak, total = _seen(
        query, key_cache, value_cache, first_position + row, begin, seen_by_all, end, scale,
        D, ROWS, WIDTH, KEYS,
    )  # fmt: skip
    pair_index = where * HQ + head
    live = (last + span - 1) // span
    is_done = live == 1
    if SPLITS > 1:  # noqa: SIM102 - decided before anything is compiled, the other one is not
        if live > 1:
            counter = counters + (tile * HKV + shared) * PARTS + part
            is_done = _hand_over(
                mixed, peak, total, peaks, totals, sums, counter, split.to(tl.int64) * N * HQ,
                pair_index, live, inside, valid, column, D,
            )  # fmt: skip
            if is_done:
                mixed, total = _merged(
                    peaks, totals, sums, counter, pair_index, N * HQ, live, inside, valid, column,
                    D, ROWS, WIDTH,
                )  # fmt: skip
    if is_done:
        place = out + pair_index[:, None] * D + column[None, :]
        tl.store(place, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside)


@dataclasses.dataclass(frozen=True)
class ProgramShape:
    """How much a program computes, and with what."""

    rows: int
    """Pairs of token and head; a power of two from 16 up."""
    keys: int
    """Of a block; a power of two from 16 up."""
    warps: int
    stages: int
    """Blocks of keys and values on their way from memory, the one at work included."""
    splits: int = 1
    """Programs that share the keys of a slot that is full; fewer share those of a shorter one."""

    @classmethod
    def of(cls, num_rows: int, tile_rows: int, group: int, max_tokens: int) -> Self:
        """For N rows in tiles of so many, G heads a key head, T tokens a slot.

        Short tiles take a tensor core's least rows: their steps are small, and more programs
        fill the card. Steps of many rows fill it without a split, up to 1,024 keys need none.
        """
        most = 16 if tile_rows <= 16 else 64
        rows = max(16, min(most, triton.next_power_of_2(tile_rows * group)))
        splits = min(8, max(1, max_tokens // 1024)) if num_rows <= 256 else 1
        return cls(rows=rows, keys=64, warps=4, stages=2, splits=splits)


class TileAttention:
    """Attention of the tiles of a step, for any layer of a cache."""

    def __init__(
        self,
        rows: StepRows,
        tiles: Tensor,
        tile_rows: int,
        heads: int,
        cache_shape: torch.Size,
        shape: ProgramShape | None = None,
    ) -> None:
        """Make the workspaces.

        Args:
            rows: N rows; only slot and position of each tile's first row are read.
            tiles: int32 [M, 2]: first row and number of rows, the latter 0 for no tile; the rows
                of a tile are consecutive positions of one slot.
            tile_rows: the most rows that a tile has.
            heads: Hq.
            cache_shape: [S, Hkv, T, D].
            shape: of the programs; results are those of any other but for rounding.

        """
        _, self._shared, self._max_tokens, self._head_dim = cache_shape
        group = heads // self._shared
        count = len(rows.slots)
        shape = shape or ProgramShape.of(count, tile_rows, group, self._max_tokens)
        self._rows, self._tiles, self._heads, self._shape = rows, tiles, heads, shape
        self._parts = triton.cdiv(tile_rows * group, shape.rows)
        blocks = triton.cdiv(self._max_tokens, shape.keys)
        self._span = triton.cdiv(blocks, shape.splits) * shape.keys
        self._counters = tiles.new_zeros(len(tiles) * self._shared * self._parts)
        left = (shape.splits, count, heads) if shape.splits > 1 else (1, 1, 1)
        self._peaks = tiles.new_zeros(left, dtype=torch.float32)
        self._totals = torch.zeros_like(self._peaks)
        self._sums = tiles.new_zeros(*left, self._head_dim, dtype=torch.float32)

    def compute(
        self, qkv: Tensor, key_cache: Tensor, value_cache: Tensor, out: Tensor, launch: Launch
    ) -> None:
        """Let each token of the tiles see its sequence up to itself, its own key included.

        Args:
            qkv: [N, (Hq + 2 Hkv) D]: rotated queries first; the rest is not read.
            key_cache: [S, Hkv, T, D], contiguous: one layer of the cache.
            value_cache: the same for values.
            out: [N, Hq D]; rows in no tile stay as they are.
            launch: how the kernel follows the one before it.

        """
        shape = self._shape
        _tile_attention[(self._parts * shape.splits, self._shared, len(self._tiles))](
            qkv, self._tiles, self._rows.positions, self._rows.slots, key_cache, value_cache, out,
            self._max_tokens, self._span, len(out), LOG2_E / self._head_dim**0.5,
            self._counters, self._peaks, self._totals, self._sums,
            HQ=self._heads, HKV=self._shared, D=self._head_dim, PARTS=self._parts,
            SPLITS=shape.splits, ROWS=shape.rows, WIDTH=triton.next_power_of_2(self._head_dim),
            KEYS=shape.keys, **launch.options(shape.warps, shape.stages),
        )  # fmt: skip
