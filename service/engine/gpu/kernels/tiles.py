"""Products of up to 32 rows on tensor cores, the inner width in two tiles that all warps share.

All weights of a program are loaded before the wait, as in ``parts``, whose warps have a slice of
the inner width each. K is cut into the largest power of two within it and the power of two that
holds the rest: 576 = 512 + 64.
Shapes: B rows, padded to BM; K = K0 + K1 inner width; N outputs, BN a program.
"""

import triton
import triton.language as tl

from service.engine.gpu.kernels.launch import allow_next, wait_for_inputs


@triton.jit(do_not_specialize=["B"])
def multiply_in_tiles(
    x, norm, weight, out, is_finite, B, N, EPS,
    K: tl.constexpr, K0: tl.constexpr, K1: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, RESIDUAL: tl.constexpr, FINITE: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Write out [B, N] = f(x [B, K]) · weight [N, K]ᵀ; see ``products.Product`` for the flags."""
    allow_next(PDL)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    b = tl.program_id(1) * BM + tl.arange(0, BM)
    k0 = tl.arange(0, K0)
    w0 = _weights(weight, n, k0, n < N, K)
    if GATED:
        u0 = _weights(weight + N * K, n, k0, n < N, K)
    if NORM:
        g0 = tl.load(norm + k0, mask=k0 < K, other=0.0).to(tl.float32)
    if K1 > 0:
        k1 = K0 + tl.arange(0, K1)
        w1 = _weights(weight, n, k1, n < N, K)
        if GATED:
            u1 = _weights(weight + N * K, n, k1, n < N, K)
        if NORM:
            g1 = tl.load(norm + k1, mask=k1 < K, other=0.0).to(tl.float32)
    wait_for_inputs(PDL)
    x0 = _rows(x, b, k0, b < B, K)
    if K1 > 0:
        x1 = _rows(x, b, k1, b < B, K)
    if NORM:
        f0 = x0.to(tl.float32)
        squares = tl.sum(f0 * f0, 1)
        if K1 > 0:
            f1 = x1.to(tl.float32)
            squares += tl.sum(f1 * f1, 1)
        scale = tl.rsqrt(squares / K + EPS)
        f0 = f0 * scale[:, None] * g0[None, :]
        x0 = f0.to(w0.dtype)
        rest = tl.sum(f0 * 0.0, 1) + squares * 0.0
        if K1 > 0:
            f1 = f1 * scale[:, None] * g1[None, :]
            x1 = f1.to(w0.dtype)
            rest += tl.sum(f1 * 0.0, 1)
        if FINITE:
            first = tl.program_id(0) == 0
            tl.store(is_finite + b, (rest == 0.0).to(tl.int8), mask=(b < B) & first)
    y = tl.dot(x0, w0, input_precision="ieee")
    if K1 > 0:
        y = tl.dot(x1, w1, y, input_precision="ieee")
    if GATED:
        up = tl.dot(x0, u0, input_precision="ieee")
        if K1 > 0:
            up = tl.dot(x1, u1, up, input_precision="ieee")
        y = y / (1.0 + tl.exp(-y)) * up
    inside = (b < B)[:, None] & (n < N)[None, :]
    place = out + b[:, None] * N + n[None, :]
    if RESIDUAL:
        y += tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _weights(weight, n, k, in_outputs, K: tl.constexpr):
    """Weights [k, n]."""
    inside = (k < K)[:, None] & in_outputs[None, :]
    return tl.load(weight + n[None, :] * K + k[:, None], mask=inside, other=0.0)


@triton.jit
def _rows(x, b, k, in_rows, K: tl.constexpr):
    """Inputs [b, k]."""
    inside = in_rows[:, None] & (k < K)[None, :]
    return tl.load(x + b[:, None] * K + k[None, :], mask=inside, other=0.0)
