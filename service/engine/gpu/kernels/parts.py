"""Products of up to 64 rows on tensor cores, the inner width in two static parts.

All weights of a program are loaded before the wait. K is cut into the largest power of two within
it and the power of two that holds the rest: 576 = 512 + 64. Each part is a batch of W products, one
a warp, that are summed at the end: a warp's chain of dependent instructions is K / W long.
Shapes: B rows, BM a program; K inner width, W slices of S0 and W of S1; N outputs, BN a program.
"""

import triton
import triton.language as tl

from service.engine.gpu.kernels.launch import allow_next, wait_for_inputs


@triton.jit(do_not_specialize=["B"])
def multiply_in_parts(
    x, norm, weight, out, is_finite, B, N, EPS,
    K: tl.constexpr, S0: tl.constexpr, S1: tl.constexpr, W: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, RESIDUAL: tl.constexpr, FINITE: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Write out [B, N] = f(x [B, K]) · weight [N, K]ᵀ; see ``products.Product`` for the flags."""
    allow_next(PDL)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    b = tl.program_id(1) * BM + tl.arange(0, BM)
    k0 = tl.arange(0, W)[:, None] * S0 + tl.arange(0, S0)[None, :]
    k1 = W * S0 + tl.arange(0, W)[:, None] * S1 + tl.arange(0, S1)[None, :]
    w0 = _weights(weight, n, k0, N, K)
    w1 = _weights(weight, n, k1, N, K)
    if GATED:
        u0 = _weights(weight + N * K, n, k0, N, K)
        u1 = _weights(weight + N * K, n, k1, N, K)
    if NORM:
        g0 = tl.load(norm + k0, mask=k0 < K, other=0.0).to(tl.float32)
        g1 = tl.load(norm + k1, mask=k1 < K, other=0.0).to(tl.float32)
    inside = (b < B)[:, None] & (n < N)[None, :]
    place = out + b[:, None] * N + n[None, :]
    wait_for_inputs(PDL)
    x0 = _rows(x, b, k0, B, K)
    x1 = _rows(x, b, k1, B, K)
    if RESIDUAL:
        held = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        f0, f1 = x0.to(tl.float32), x1.to(tl.float32)
        squares = tl.sum(tl.sum(f0 * f0, 2) + tl.sum(f1 * f1, 2), 0)
        scale = tl.rsqrt(squares / K + EPS)[None, :, None]
        f0, f1 = f0 * scale * g0[:, None, :], f1 * scale * g1[:, None, :]
        x0, x1 = f0.to(w0.dtype), f1.to(w0.dtype)
        if FINITE:
            rest = tl.sum(tl.sum(f0 * 0.0, 2) + tl.sum(f1 * 0.0, 2), 0) + squares * 0.0
            first = tl.program_id(0) == 0
            tl.store(is_finite + b, (rest == 0.0).to(tl.int8), mask=(b < B) & first)
    y = tl.sum(tl.dot(x1, w1, tl.dot(x0, w0, input_precision="ieee"), input_precision="ieee"), 0)
    if GATED:
        up = tl.dot(x1, u1, tl.dot(x0, u0, input_precision="ieee"), input_precision="ieee")
        y = y / (1.0 + tl.exp(-y)) * tl.sum(up, 0)
    if RESIDUAL:
        y += held
    tl.store(place, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _weights(weight, n, k, N, K: tl.constexpr):
    """Weights [W, S, BN]."""
    inside = (k < K)[:, :, None] & (n < N)[None, None, :]
    return tl.load(weight + n[None, None, :] * K + k[:, :, None], mask=inside, other=0.0)


@triton.jit
def _rows(x, b, k, B, K: tl.constexpr):
    """Inputs [W, BM, S]."""
    inside = (b < B)[None, :, None] & (k < K)[:, None, :]
    return tl.load(x + b[None, :, None] * K + k[:, None, :], mask=inside, other=0.0)
