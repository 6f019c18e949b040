"""Products of many rows, or of wide ones, on tensor cores: a loop over the inner width.

Shapes: B rows, BM a program; K inner width, BK a turn; N outputs, BN a program.
"""

import triton
import triton.language as tl

from service.engine.gpu.kernels.launch import allow_next, wait_for_inputs


@triton.jit(do_not_specialize=["B"])
def multiply_in_a_loop(
    x, norm, weight, out, is_finite, B, N, EPS,
    K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, RESIDUAL: tl.constexpr, FINITE: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Write out [B, N] = f(x [B, K]) · weight [N, K]ᵀ; see ``products.Product`` for the flags.

    The scale of the norm is a factor of a whole row, so that it is known late and applied last.
    """
    allow_next(PDL)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    b = tl.program_id(1) * BM + tl.arange(0, BM)
    y = tl.zeros((BM, BN), tl.float32)
    if GATED:
        up = tl.zeros((BM, BN), tl.float32)
    if NORM:
        squares = tl.zeros((BM,), tl.float32)
    if FINITE:
        rest = tl.zeros((BM,), tl.float32)
    wait_for_inputs(PDL)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        inside = (k < K)[:, None] & (n < N)[None, :]
        w = tl.load(weight + n[None, :] * K + k[:, None], mask=inside, other=0.0)
        in_rows = (b < B)[:, None] & (k < K)[None, :]
        xs = tl.load(x + b[:, None] * K + k[None, :], mask=in_rows, other=0.0)
        if NORM:
            g = tl.load(norm + k, mask=k < K, other=0.0).to(tl.float32)
            f = xs.to(tl.float32)
            squares += tl.sum(f * f, 1)
            f = f * g[None, :]
            if FINITE:
                rest += tl.sum(f * 0.0, 1)
            xs = f.to(w.dtype)
        y = tl.dot(xs, w, y, input_precision="ieee")
        if GATED:
            u = tl.load(weight + (N + n)[None, :] * K + k[:, None], mask=inside, other=0.0)
            up = tl.dot(xs, u, up, input_precision="ieee")
    if NORM:
        scale = tl.rsqrt(squares / K + EPS)[:, None]
        y *= scale
        if GATED:
            up *= scale
        if FINITE:
            rest += squares * 0.0
            first = tl.program_id(0) == 0
            tl.store(is_finite + b, (rest == 0.0).to(tl.int8), mask=(b < B) & first)
    if GATED:
        y = y / (1.0 + tl.exp(-y)) * up
    place = out + b[:, None] * N + n[None, :]
    inside = (b < B)[:, None] & (n < N)[None, :]
    if RESIDUAL:
        y += tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, y.to(out.dtype.element_ty), mask=inside)
