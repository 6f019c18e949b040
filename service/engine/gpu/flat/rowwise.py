"""Kernels of one program a row: embedding with norm, residual with norm, SiLU·up, finite rows.

The residual stream is float32, so that a sum over many layers is rounded once, where it is read.
Shapes: N rows of a step, C hidden width, I width of the MLP, V vocabulary, S slots, R rows that
yield logits. The plain definitions are in ``lm.model.layers``.
"""

import triton
import triton.language as tl
from torch import Tensor

from service.engine.gpu.tensors import StepRows

SILU_COLUMNS = 1024


@triton.jit
def _normalised(x, weight, columns, C: tl.constexpr, EPS: tl.constexpr):
    """RMSNorm of one float32 row, zeros beyond C: x / √(mean of squares + EPS) · weight."""
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / C + EPS)
    return x * scale * tl.load(weight + columns, mask=columns < C, other=0.0).to(tl.float32)


@triton.jit
def _embed_norm(
    token_ids, slots, last_tokens, embedding, weight, x, out,
    C: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    slot = tl.load(slots + row)
    token = tl.load(token_ids + row)
    drawn = tl.load(last_tokens + tl.maximum(slot, 0))
    token = tl.where(token < 0, drawn, token).to(tl.int64)
    alive = (columns < C) & (slot >= 0)
    values = tl.load(embedding + token * C + columns, mask=alive, other=0.0).to(tl.float32)
    normalised = _normalised(values, weight, columns, C, EPS)
    tl.store(x + row * C + columns, values, mask=columns < C)
    tl.store(out + row * C + columns, normalised.to(out.dtype.element_ty), mask=columns < C)


def embed_norm(
    rows: StepRows, embedding: Tensor, weight: Tensor, eps: float, x: Tensor, out: Tensor
) -> None:
    """Look the rows' tokens up, then apply the first norm.

    Args:
        rows: N rows; one with slot -1 becomes zeros.
        embedding: [V, C].
        weight: [C], of the norm.
        eps: of the norm.
        x: float32 [N, C]: receives the embeddings.
        out: [N, C]: receives the normalised rows.

    """
    count, width = out.shape
    block = triton.next_power_of_2(width)
    _embed_norm[(count,)](
        rows.token_ids, rows.slots, rows.last_tokens, embedding, weight, x, out,
        C=width, EPS=eps, BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip


@triton.jit
def _add_norm(x, delta, weight, out, C: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < C
    values = tl.load(x + row * C + columns, mask=inside, other=0.0)
    values += tl.load(delta + row * C + columns, mask=inside, other=0.0).to(tl.float32)
    normalised = _normalised(values, weight, columns, C, EPS)
    tl.store(x + row * C + columns, values, mask=inside)
    tl.store(out + row * C + columns, normalised.to(out.dtype.element_ty), mask=inside)


def add_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Add delta [N, C] to x, float32 [N, C], in place, and write the norm of the sum to out."""
    count, width = out.shape
    block = triton.next_power_of_2(width)
    _add_norm[(count,)](
        x, delta, weight, out, C=width, EPS=eps, BLOCK=block, num_warps=_warps(block)
    )


@triton.jit
def _silu_mul(gate_up, out, INNER: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < INNER
    gate = tl.load(gate_up + row * 2 * INNER + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * INNER + INNER + columns, mask=inside, other=0.0)
    gated = gate / (1.0 + tl.exp(-gate)) * up.to(tl.float32)
    tl.store(out + row * INNER + columns, gated.to(out.dtype.element_ty), mask=inside)


def silu_mul(gate_up: Tensor, out: Tensor) -> None:
    """SiLU(gate) · up of joined products [N, 2 I], into out [N, I]."""
    count, inner = out.shape
    block = min(triton.next_power_of_2(inner), SILU_COLUMNS)
    _silu_mul[(count, triton.cdiv(inner, block))](
        gate_up, out, INNER=inner, BLOCK=block, num_warps=4
    )


@triton.jit
def _gather_rows(hidden, row_indices, out, is_finite, C: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    row = tl.load(row_indices + program).to(tl.int64)
    alive = (columns < C) & (row >= 0)
    values = tl.load(hidden + row * C + columns, mask=alive, other=0.0)
    tl.store(out + program * C + columns, values, mask=columns < C)
    magnitude = tl.abs(values.to(tl.float32))
    bad = tl.sum((magnitude < float("inf")).to(tl.int32), axis=0) < BLOCK
    tl.store(is_finite + program, (bad == 0).to(is_finite.dtype.element_ty))


def gather_rows(hidden: Tensor, row_indices: Tensor, out: Tensor, is_finite: Tensor) -> None:
    """Copy some rows, and say of each whether all its numbers are finite.

    Args:
        hidden: [N, C].
        row_indices: int32 [R], -1 for a row of zeros.
        out: [R, C].
        is_finite: bool or int8 [R].

    """
    count, width = out.shape
    block = triton.next_power_of_2(width)
    _gather_rows[(count,)](
        hidden, row_indices, out, is_finite, C=width, BLOCK=block, num_warps=_warps(block)
    )


def _warps(block: int) -> int:
    """Warps of a program over so many columns: eight or more columns a thread, 16 at the most."""
    return min(max(block // 256, 1), 8)
