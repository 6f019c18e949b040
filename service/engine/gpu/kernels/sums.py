"""Products of one to a few rows, as sums of elementwise products over the whole inner width.

The weights are in registers before the wait, so that only the row itself is on the way when the
kernel before has ended. Shapes: B rows, K inner width (KP the power of two from it up), N outputs.
"""

import triton
import triton.language as tl

from service.engine.gpu.kernels.launch import allow_next, wait_for_inputs


@triton.jit
def multiply_by_sums(
    x, norm, weight, out, is_finite,
    best, total, mixed, positions, slots,
    N, EPS,
    B: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, BN: tl.constexpr,
    D: tl.constexpr, SPLITS: tl.constexpr, BT: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, RESIDUAL: tl.constexpr, FINITE: tl.constexpr,
    MERGE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Write out [B, N] = f(x [B, K]) · weight [N, K]ᵀ; see ``products.multiply`` for the flags.

    With MERGE the row is put together from the splits that ``decode_attention`` left, x unread.
    """
    allow_next(PDL)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, KP)
    in_row = k < K
    inside = (n < N)[:, None] & in_row[None, :]
    w = tl.load(weight + n[:, None] * K + k[None, :], mask=inside, other=0.0)
    if GATED:
        u = tl.load(weight + (N + n)[:, None] * K + k[None, :], mask=inside, other=0.0)
    if NORM:
        g = tl.load(norm + k, mask=in_row, other=0.0).to(tl.float32)
    wait_for_inputs(PDL)
    for b in tl.static_range(B):
        if MERGE:
            row = _merged(best, total, mixed, positions, slots, b, k, K, D, SPLITS, BT)
        else:
            row = tl.load(x + b * K + k, mask=in_row, other=0.0).to(tl.float32)
        if NORM:
            squares = tl.sum(row * row)
            row = row * tl.rsqrt(squares / K + EPS) * g
            if FINITE:
                # 0 · inf is NaN, and NaN is not equal to itself.
                rest = tl.sum(row * 0.0) + squares * 0.0
                tl.store(is_finite + b, (rest == 0.0).to(tl.int8), mask=tl.program_id(0) == 0)
        y = tl.sum(w.to(tl.float32) * row[None, :], 1)
        if GATED:
            y = y / (1.0 + tl.exp(-y)) * tl.sum(u.to(tl.float32) * row[None, :], 1)
        place = out + b * N + n
        if RESIDUAL:
            y += tl.load(place, mask=n < N, other=0.0).to(tl.float32)
        tl.store(place, y.to(out.dtype.element_ty), mask=n < N)


@triton.jit
def _merged(
    best, total, mixed, positions, slots, b, k,
    K: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """One row [KP] of attention from its splits; zeros for a row without a slot."""
    s = tl.arange(0, SPLITS)
    position = tl.where(tl.load(slots + b) < 0, -1, tl.load(positions + b))
    read = (s * BT <= position)[:, None] & (k < K)[None, :]
    head = b * (K // D) * SPLITS + (k // D)[None, :] * SPLITS + s[:, None]
    m = tl.load(best + head, mask=read, other=-1e30)
    t = tl.load(total + head, mask=read, other=1.0)
    v = tl.load(mixed + (b * SPLITS + s)[:, None] * K + k[None, :], mask=read, other=0.0)
    share = tl.exp2(m - tl.max(m, 0)[None, :])
    return tl.sum(v * share, 0) / tl.sum(t * share, 0)
