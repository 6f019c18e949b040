"""The dtype that matrix products run in while the weights stay float32.

``auto`` asks a clock, not the processor's name: bfloat16 is taken only where a product of the
recipe's own size runs clearly faster in it. The answer holds for all products of a step, Muon's
orthogonalisation among them, and is stored with the run, for a resumed run must compute in the
dtype it began with.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Literal

import torch

from lm.model.device import bfloat16_speedup
from trainer.recipe.schema import Recipe

Precision = Literal["float32", "bfloat16", "float16"]

WORTHWHILE_SPEEDUP = 1.3
"""Below this, casting back and forth costs more than the products save."""
MEASURED_ROWS = 4096
"""Most rows of the product that is measured, to stay within milliseconds."""


def choose_precision(recipe: Recipe, device: torch.device) -> tuple[Precision, str]:
    """The precision to train in, and a line that says why."""
    if recipe.precision == "float16" and device.type == "cpu":
        return "bfloat16", "bfloat16: float16 products are unusably slow on CPUs"
    if recipe.precision != "auto":
        return recipe.precision, f"{recipe.precision}: asked for by the recipe"
    speedup = bfloat16_speedup(
        device,
        rows=min(recipe.batch.micro_batch * recipe.batch.length, MEASURED_ROWS),
        width=recipe.model.hidden_size,
        inner=recipe.model.intermediate_size,
    )
    precision: Precision = "bfloat16" if speedup >= WORTHWHILE_SPEEDUP else "float32"
    return precision, f"{precision}: bfloat16 products ran {speedup:.1f}x as fast as float32 ones"


@contextlib.contextmanager
def float32_products(precision: Literal["highest", "high"]) -> Iterator[None]:
    """A context in which float32 products run as a recipe asks, wherever the hardware can."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def prepare_repeatable(device: torch.device, *, wanted: bool) -> None:
    """Let ``repeatable`` be used; PyTorch reads the variable once, at a process's first product."""
    if device.type == "cuda" and wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextlib.contextmanager
def repeatable(device: torch.device, *, wanted: bool) -> Iterator[None]:
    """A context in which a GPU computes the same bits from the same numbers, if wanted.

    Attention's fused backward passes add in any order unless told otherwise. A CPU needs nothing;
    for a GPU ``prepare_repeatable`` comes first.
    """
    if device.type != "cuda" or not wanted:
        yield
        return
    before = torch.get_deterministic_debug_mode()
    memory = torch.utils.deterministic
    fills = memory.fill_uninitialized_memory  # type: ignore[attr-defined]
    memory.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it decides nothing here
    torch.set_deterministic_debug_mode("error")  # with a warning alone attention stays as it is
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        memory.fill_uninitialized_memory = fills  # type: ignore[attr-defined]


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """A context in which matrix products run in the given precision."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))
