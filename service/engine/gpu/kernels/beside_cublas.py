"""What is left of a product when cuBLAS multiplies: the norm before, the gate after.

Shapes: B rows, K inner width, N outputs.
"""

import triton
import triton.language as tl

from service.engine.gpu.kernels.launch import allow_next, wait_for_inputs


@triton.jit
def normalize(
    x, norm, out, is_finite, EPS,
    K: tl.constexpr, KP: tl.constexpr, FINITE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Write out [B, K], one row a program: RMSNorm of x [B, K]."""
    allow_next(PDL)
    b = tl.program_id(0)
    k = tl.arange(0, KP)
    g = tl.load(norm + k, mask=k < K, other=0.0).to(tl.float32)
    wait_for_inputs(PDL)
    row = tl.load(x + b * K + k, mask=k < K, other=0.0).to(tl.float32)
    squares = tl.sum(row * row)
    row = row * tl.rsqrt(squares / K + EPS) * g
    tl.store(out + b * K + k, row.to(out.dtype.element_ty), mask=k < K)
    if FINITE:
        rest = tl.sum(row * 0.0) + squares * 0.0
        tl.store(is_finite + b, (rest == 0.0).to(tl.int8))


@triton.jit
def gate(wide, out, N, BN: tl.constexpr, PDL: tl.constexpr):
    """Write out [B, N] = silu(wide [B, :N]) · wide [B, N:2N], BN outputs a program."""
    allow_next(PDL)
    b = tl.program_id(1)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    wait_for_inputs(PDL)
    y = tl.load(wide + b * 2 * N + n, mask=n < N, other=0.0).to(tl.float32)
    up = tl.load(wide + (b * 2 + 1) * N + n, mask=n < N, other=0.0).to(tl.float32)
    y = y / (1.0 + tl.exp(-y)) * up
    tl.store(out + b * N + n, y.to(out.dtype.element_ty), mask=n < N)
