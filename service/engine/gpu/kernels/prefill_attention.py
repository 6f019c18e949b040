"""Attention of tiles of consecutive tokens over the slot cache, with an online softmax.

A tile is up to TILE rows of one sequence. The query heads that share a key head are folded into
the rows of its product: a program computes ROWS (token, head) pairs of one tile and one key head,
token by token, and reads the keys up to the last of its tokens. Softmax in one pass over blocks of
keys: FlashAttention-2, arXiv:2307.08691. The plain definition is ``service.engine.attention``.

Shapes: N rows of a step, M tiles, Hq and Hkv heads of D numbers, G = Hq / Hkv, S slots, T tokens a
slot.
"""

import dataclasses
import math
from typing import Self

import triton
import triton.language as tl
from torch import Tensor

from service.engine.gpu.tensors import StepRows

LOG2_E = math.log2(math.e)


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

    @classmethod
    def of(cls, tile_rows: int, group: int) -> Self:
        """For tiles of so many rows and G heads a key head.

        Short tiles take a tensor core's least rows: their steps are small, and more programs
        fill the card.
        """
        most = 16 if tile_rows <= 16 else 64
        pairs = triton.next_power_of_2(tile_rows * group)
        return cls(rows=max(16, min(most, pairs)), keys=64, warps=4, stages=2)


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
        fade = tl.exp2(peak - new_peak)
        weights = tl.exp2(scores - new_peak[:, None])
        total = total * fade + tl.sum(weights, axis=1)
        value = tl.load(value_cache + offsets, mask=inside, other=0.0)
        mixed = mixed * fade[:, None]
        mixed = tl.dot(weights.to(value.dtype), value, mixed, input_precision="ieee")
        peak = new_peak
    return mixed, peak, total


@triton.jit
def _tile_attention(
    qkv, tiles, positions, slots, key_cache, value_cache, out, T, scale,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    GROUP: tl.constexpr = HQ // HKV
    tile, part, shared = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first_row = tl.load(tiles + 2 * tile)
    count = tl.load(tiles + 2 * tile + 1)
    if part * ROWS >= count * GROUP:
        return
    slot = tl.load(slots + first_row).to(tl.int64)
    first_position = tl.load(positions + first_row)
    key_cache += (slot * HKV + shared) * T * D
    value_cache += (slot * HKV + shared) * T * D

    pair = part * ROWS + tl.arange(0, ROWS)
    row = pair // GROUP
    head = shared * GROUP + pair % GROUP
    column = tl.arange(0, WIDTH)
    inside = (row < count)[:, None] & (column < D)[None, :]
    where = (first_row + row).to(tl.int64)
    query = tl.load(
        qkv + (where * (HQ + 2 * HKV) + head)[:, None] * D + column[None, :], mask=inside, other=0.0
    )

    last = first_position + tl.minimum(count, (part * ROWS + ROWS - 1) // GROUP + 1)
    seen_by_all = (first_position + part * ROWS // GROUP + 1) // KEYS * KEYS
    mixed = tl.zeros((ROWS, WIDTH), tl.float32)
    peak = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed, peak, total = _over_keys(
        mixed, peak, total, query, key_cache, value_cache, first_position + row, 0, seen_by_all,
        scale, D, WIDTH, KEYS, MASKED=False,
    )  # fmt: skip
    mixed, peak, total = _over_keys(
        mixed, peak, total, query, key_cache, value_cache, first_position + row, seen_by_all, last,
        scale, D, WIDTH, KEYS, MASKED=True,
    )  # fmt: skip
    mixed = mixed / total[:, None]
    tl.store(
        out + (where * HQ + head)[:, None] * D + column[None, :],
        mixed.to(out.dtype.element_ty),
        mask=inside,
    )


def tile_attention(
    qkv: Tensor,
    tiles: Tensor,
    rows: StepRows,
    key_cache: Tensor,
    value_cache: Tensor,
    out: Tensor,
    tile_rows: int,
    shape: ProgramShape,
) -> None:
    """Let each token of the tiles see its sequence up to itself; its keys are in the cache already.

    Args:
        qkv: [N, (Hq + 2 Hkv) D]: rotated queries first; the rest is not read.
        tiles: int32 [M, 2]: first row and number of rows, the latter 0 for no tile; the rows of a
            tile are consecutive positions of one slot.
        rows: N rows; only slot and position of each tile's first row are read.
        key_cache: [S, Hkv, T, D], contiguous: one layer of the cache.
        value_cache: the same for values.
        out: [N, Hq D]; rows in no tile stay as they are.
        tile_rows: the most rows that a tile has.
        shape: of the programs; results are those of any other but for rounding.

    """
    _, shared, max_tokens, head_dim = key_cache.shape
    heads = out.shape[1] // head_dim
    parts = triton.cdiv(tile_rows * (heads // shared), shape.rows)
    _tile_attention[(tiles.shape[0], parts, shared)](
        qkv, tiles, rows.positions, rows.slots, key_cache, value_cache, out, max_tokens,
        LOG2_E / head_dim**0.5,
        HQ=heads, HKV=shared, D=head_dim,
        ROWS=shape.rows, WIDTH=triton.next_power_of_2(head_dim), KEYS=shape.keys,
        num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
