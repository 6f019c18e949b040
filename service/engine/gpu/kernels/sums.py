"""Products of one or two rows, as sums of elementwise products over the whole inner width.

The weights are in registers before the wait, so that only the row itself is on the way when the
kernel before has ended. Shapes: B rows, K inner width (KP the power of two from it up), N outputs.
"""

import triton
import triton.language as tl

from service.engine.gpu.kernels.launch import allow_next, wait_for_inputs


@triton.jit
def multiply_by_sums(
    x, norm, weight, out, is_finite, N, EPS,
    B: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, BN: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, RESIDUAL: tl.constexpr, FINITE: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Write out [B, N] = f(x [B, K]) · weight [N, K]ᵀ; see ``products.Product`` for the flags.

    The scale of the norm is a factor of the whole row: it is applied to the sums, so that both do
    not wait for each other.
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
        place = out + b * N + n
        row = tl.load(x + b * K + k, mask=in_row, other=0.0).to(tl.float32)
        if RESIDUAL:
            held = tl.load(place, mask=n < N, other=0.0).to(tl.float32)
        if NORM:
            squares = tl.sum(row * row)
            row = row * g
            scale = tl.rsqrt(squares / K + EPS)
            if FINITE:
                # 0 · inf is NaN, and NaN is not equal to itself.
                rest = tl.sum(row * 0.0) + squares * 0.0
                tl.store(is_finite + b, (rest == 0.0).to(tl.int8), mask=tl.program_id(0) == 0)
        y = tl.sum(w.to(tl.float32) * row[None, :], 1)
        if NORM:
            y *= scale
        if GATED:
            up = tl.sum(u.to(tl.float32) * row[None, :], 1)
            if NORM:
                up *= scale
            y = y / (1.0 + tl.exp(-y)) * up
        if RESIDUAL:
            y += held
        tl.store(place, y.to(out.dtype.element_ty), mask=n < N)


@triton.jit
def merge_and_multiply(
    best, total, mixed, positions, slots, weight, out, N,
    B: tl.constexpr, HQ: tl.constexpr, HP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    SPLITS: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Add attention · weight [N, Hq D]ᵀ to out [B, N], the attention in splits of blocks of BT.

    Every program merges the splits for itself: cheaper than a kernel of its own for a row or two.
    """
    allow_next(PDL)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    s, h, d = tl.arange(0, SPLITS), tl.arange(0, HP), tl.arange(0, DP)
    k = h[:, None] * D + d[None, :]
    in_row = (h < HQ)[:, None] & (d < D)[None, :]
    inside = (n < N)[:, None, None] & in_row[None, :, :]
    w = tl.load(weight + n[:, None, None] * (HQ * D) + k[None, :, :], mask=inside, other=0.0)
    for b in tl.static_range(B):
        position = tl.where(tl.load(slots + b) < 0, -1, tl.load(positions + b))
        is_live = (s * BT <= position)[:, None] & (h < HQ)[None, :]
        if b == 0:
            wait_for_inputs(PDL)
        held = tl.load(out + b * N + n, mask=n < N, other=0.0).to(tl.float32)
        head = (b * HQ + h)[None, :] * SPLITS + s[:, None]
        m = tl.load(best + head, mask=is_live, other=-1e30)
        t = tl.load(total + head, mask=is_live, other=1.0)
        part = (b * SPLITS + s)[:, None, None] * (HQ * D) + k[None, :, :]
        v = tl.load(mixed + part, mask=is_live[:, :, None] & in_row[None, :, :], other=0.0)
        share = tl.exp2(m - tl.max(m, 0)[None, :])
        share = share / tl.sum(t * share, 0)[None, :]
        row = tl.sum(v * share[:, :, None], 0)
        y = tl.sum(tl.sum(w.to(tl.float32) * row[None, :, :], 2), 1)
        tl.store(out + b * N + n, (held + y).to(out.dtype.element_ty), mask=n < N)
