"""Rotates the queries and keys of flat rows, and writes keys and values to their slots.

Shapes: N rows of a step, Hq and Hkv heads of D numbers, S slots, T tokens a slot. The plain
definition is ``lm.model.rotary`` (arXiv:2104.09864, the two halves of a head rotated against each
other).
"""

import triton
import triton.language as tl
from torch import Tensor

from service.engine.gpu.kernels.launch import Launch, allow_next, wait_for_inputs
from service.engine.gpu.tensors import StepRows


@triton.jit
def _rotate_write(
    qkv, cos, sin, positions, slots, key_cache, value_cache, T,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr,
    TURNING: tl.constexpr, VALUES: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """One program a row; TURNING ≥ Hq + Hkv, VALUES ≥ Hkv, HALF ≥ D / 2 and WIDTH ≥ D: padded."""
    allow_next(PDL)
    wait_for_inputs(PDL)
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    if slot >= 0:
        position = tl.load(positions + row)
        half = tl.arange(0, HALF)
        angles = position * (D // 2) + half
        cosine = tl.load(cos + angles, mask=half < D // 2, other=0.0)[None, :]
        sine = tl.load(sin + angles, mask=half < D // 2, other=0.0)[None, :]

        head = tl.arange(0, TURNING)[:, None]
        first = qkv + row * (HQ + 2 * HKV) * D + head * D + half[None, :]
        inside = (head < HQ + HKV) & (half[None, :] < D // 2)
        a = tl.load(first, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(first + D // 2, mask=inside, other=0.0).to(tl.float32)
        left = (a * cosine - b * sine).to(qkv.dtype.element_ty)
        right = (b * cosine + a * sine).to(qkv.dtype.element_ty)
        is_query = inside & (head < HQ)
        tl.store(first, left, mask=is_query)
        tl.store(first + D // 2, right, mask=is_query)
        is_key = inside & (head >= HQ)
        key = key_cache + ((slot * HKV + head - HQ) * T + position) * D + half[None, :]
        tl.store(key, left, mask=is_key)
        tl.store(key + D // 2, right, mask=is_key)

        head = tl.arange(0, VALUES)[:, None]
        column = tl.arange(0, WIDTH)[None, :]
        inside = (head < HKV) & (column < D)
        source = qkv + (row * (HQ + 2 * HKV) + HQ + HKV + head) * D + column
        target = value_cache + ((slot * HKV + head) * T + position) * D + column
        tl.store(target, tl.load(source, mask=inside, other=0.0), mask=inside)


def rotate_write(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    rows: StepRows,
    key_cache: Tensor,
    value_cache: Tensor,
    launch: Launch,
) -> None:
    """Rotate the queries of qkv in place, write rotated keys and values to (slot, position).

    The keys inside qkv stay as they are. A row with slot -1 changes nothing.

    Args:
        qkv: [N, (Hq + 2 Hkv) D], contiguous.
        cos: float32 [max positions, D / 2].
        sin: float32 [max positions, D / 2].
        rows: N rows; positions below T.
        key_cache: [S, Hkv, T, D], contiguous: one layer of the cache.
        value_cache: the same for values.
        launch: how the kernel follows the one before it.

    """
    _, shared, max_tokens, head_dim = key_cache.shape
    heads = qkv.shape[1] // head_dim - 2 * shared
    _rotate_write[(qkv.shape[0],)](
        qkv, cos, sin, rows.positions, rows.slots, key_cache, value_cache, max_tokens,
        HQ=heads, HKV=shared, D=head_dim,
        TURNING=triton.next_power_of_2(heads + shared),
        VALUES=triton.next_power_of_2(shared),
        HALF=triton.next_power_of_2(head_dim // 2),
        WIDTH=triton.next_power_of_2(head_dim),
        **launch.options(warps=4),
    )  # fmt: skip
