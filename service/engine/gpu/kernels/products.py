"""One product of a step, by whichever kernel was chosen for it.

Shapes: B rows, K inner width, N outputs.
"""

import dataclasses

import torch
import triton
from torch import Tensor

from service.engine.gpu.kernels.beside_cublas import gate, normalize
from service.engine.gpu.kernels.choices import ProductChoice, static_parts, two_tiles
from service.engine.gpu.kernels.decode_attention import Splits
from service.engine.gpu.kernels.launch import Launch
from service.engine.gpu.kernels.loop import multiply_in_a_loop
from service.engine.gpu.kernels.parts import multiply_in_parts
from service.engine.gpu.kernels.sums import merge_and_multiply, multiply_by_sums
from service.engine.gpu.kernels.tiles import multiply_in_tiles
from service.engine.gpu.tensors import StepRows


@dataclasses.dataclass(frozen=True, eq=False)
class Merge:
    """The splits of an attention that a product merges itself; for sums alone."""

    splits: Splits
    rows: StepRows
    keys: int
    """Of a block of the attention."""
    head_dim: int


@dataclasses.dataclass(frozen=True, eq=False)
class Scratch:
    """Room of a product that cuBLAS multiplies."""

    normed: Tensor
    """[B, C]."""
    wide: Tensor
    """[B, 2 I]."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Product:
    """out = x · weightᵀ, with what is fused to it.

    With ``norm`` x is normalised first (RMSNorm). ``gated``: the weight is [2 N, K] and
    out = silu(x · firstᵀ) · (x · secondᵀ). ``residual``: the product is added to out.
    ``is_finite``: whether each normalised row is finite, int8 [B].
    """

    x: Tensor
    """[B, K]; unread where ``merge`` is given."""
    weight: Tensor
    """[N, K]."""
    out: Tensor
    """[B, N]."""
    norm: Tensor | None = None
    """[K]."""
    eps: float = 0.0
    gated: bool = False
    residual: bool = False
    is_finite: Tensor | None = None
    merge: Merge | None = None


def multiply(launch: Launch, choice: ProductChoice, product: Product, scratch: Scratch) -> None:
    """Compute a product; nothing is allocated and the host does not wait."""
    if choice.form == "cublas":
        _by_cublas(launch, product, scratch)
    elif choice.form == "sums":
        _by_sums(launch, choice, product)
    else:
        _by_tiles(launch, choice, product)


def _flags(product: Product) -> dict[str, bool]:
    return {
        "NORM": product.norm is not None,
        "GATED": product.gated,
        "RESIDUAL": product.residual,
        "FINITE": product.is_finite is not None,
    }


def _pointers(product: Product) -> tuple[Tensor, ...]:
    """x, norm, weight, out and is_finite; anything stands for what is not read."""
    norm = product.weight if product.norm is None else product.norm
    is_finite = product.out if product.is_finite is None else product.is_finite
    return product.x, norm, product.weight, product.out, is_finite


def _by_sums(launch: Launch, choice: ProductChoice, product: Product) -> None:
    rows, outputs = product.out.shape
    inner = product.weight.shape[1]
    grid = (triton.cdiv(outputs, choice.outputs),)
    options = launch.options(choice.warps, choice.stages)
    merge = product.merge
    if merge is None:
        multiply_by_sums[grid](
            *_pointers(product),
            *(outputs, product.eps),
            B=rows,
            K=inner,
            KP=triton.next_power_of_2(inner),
            BN=choice.outputs,
            **_flags(product),
            **options,
        )
        return
    assert product.residual
    splits, heads = merge.splits, inner // merge.head_dim
    merge_and_multiply[grid](
        *(splits.best, splits.total, splits.mixed, merge.rows.positions, merge.rows.slots),
        *(product.weight, product.out, outputs),
        B=rows,
        HQ=heads,
        HP=triton.next_power_of_2(heads),
        D=merge.head_dim,
        DP=triton.next_power_of_2(merge.head_dim),
        SPLITS=splits.best.shape[2],
        BT=merge.keys,
        BN=choice.outputs,
        **options,
    )


def _by_tiles(launch: Launch, choice: ProductChoice, product: Product) -> None:
    rows, outputs = product.out.shape
    inner = product.weight.shape[1]
    grid = (triton.cdiv(outputs, choice.outputs), triton.cdiv(rows, choice.rows))
    sizes = {"K": inner, "BM": choice.rows, "BN": choice.outputs, **_flags(product)}
    options = launch.options(choice.warps, choice.stages)
    numbers = (rows, outputs, product.eps)
    if choice.form == "loop":
        multiply_in_a_loop[grid](*_pointers(product), *numbers, BK=choice.inner, **sizes, **options)
    elif choice.form == "tiles":
        first, second = two_tiles(inner)
        sizes |= {"K0": first, "K1": second}
        multiply_in_tiles[grid](*_pointers(product), *numbers, **sizes, **options)
    else:
        slices = choice.warps
        first, second = static_parts(inner, slices)
        sizes |= {"S0": first // slices, "S1": second // slices, "W": slices}
        multiply_in_parts[grid](*_pointers(product), *numbers, **sizes, **options)


def _by_cublas(launch: Launch, product: Product, scratch: Scratch) -> None:
    rows, outputs = product.out.shape
    inner = product.weight.shape[1]
    x, out, weight = product.x, product.out, product.weight.t()
    if product.norm is not None:
        _, norm, _, _, is_finite = _pointers(product)
        normalize[(rows,)](
            *(x, norm, scratch.normed, is_finite, product.eps),
            K=inner,
            KP=triton.next_power_of_2(inner),
            FINITE=product.is_finite is not None,
            **launch.options(warps=4),
        )
        x = scratch.normed
    if product.residual:
        out.addmm_(x, weight)
    elif product.gated:
        torch.mm(x, weight, out=scratch.wide)
        block = 1024
        grid = (triton.cdiv(outputs, block), rows)
        gate[grid](scratch.wide, out, outputs, BN=block, **launch.options(warps=4))
    elif out.dtype == x.dtype:
        torch.mm(x, weight, out=out)
    else:
        torch.mm(x, weight, out_dtype=out.dtype, out=out)
