"""The largest micro-batch that a GPU holds, found by trying: ``python -m trainer fit RECIPE``.

Each try takes whole optimizer steps of random tokens, in the form that training has on the device
(compiled or not), on fresh weights and moments. Sizes double until memory runs out. On a CPU a
micro-batch is taken in passes of a few rows, so memory does not limit it.
"""

import dataclasses
import gc
import time
from collections.abc import Callable, Iterator

import torch
from rich.console import Console
from rich.table import Table

from lm.model.decoder import Decoder
from lm.model.initialize import initialize
from trainer.recipe.schema import Recipe
from trainer.step.compiled import compile_blocks, compiled_batch_loss, is_to_be_compiled
from trainer.step.fused.recompute import recompute_activations
from trainer.step.fused.residual import halve_residual
from trainer.step.loss import PASS_TOKENS, BatchLoss, batch_loss
from trainer.step.optimizer import Optimizer, rates_at
from trainer.step.precision import (
    Precision,
    autocast,
    choose_precision,
    float32_products,
    prepare_repeatable,
    repeatable,
)

STEPS = 4
"""Of each try; the first compiles and gets memory, the others are timed."""
MOST_ROWS = 1 << 14


@dataclasses.dataclass(frozen=True)
class Tried:
    """One size that fits."""

    micro_batch: int
    seconds: float
    """Of an optimizer step of one micro-batch."""
    peak_bytes: int
    """Most memory that tensors took; 0 on a CPU."""


def fit(recipe: Recipe, device: torch.device, console: Console) -> None:
    """Print a table of the micro-batches that fit."""
    if device.type != "cuda":
        console.print(
            f"On a CPU memory does not limit the micro-batch: {PASS_TOKENS:,} tokens at a time go "
            f"through the model. The recipe has {recipe.batch.micro_batch} x {recipe.batch.length}."
        )
        return
    prepare_repeatable(device, wanted=recipe.deterministic)
    precision, reason = choose_precision(recipe, device)
    is_compiled = is_to_be_compiled(recipe, device, console.print)
    console.print(f"precision {reason}; {'compiled' if is_compiled else 'not compiled'}")

    def attempt(rows: int) -> Tried | None:
        console.print(f"trying {rows} x {recipe.batch.length}")
        return try_micro_batch(recipe, device, rows, precision, is_compiled=is_compiled)

    total = torch.cuda.get_device_properties(device).total_memory
    with float32_products(recipe.float32_matmul):
        console.print(table_of(recipe, list(doubled(attempt)), total))


def doubled(attempt: Callable[[int], Tried | None]) -> Iterator[Tried]:
    """Tries of 1, 2, 4, … rows, until one does not fit."""
    rows = 1
    while rows <= MOST_ROWS and (tried := attempt(rows)) is not None:
        yield tried
        rows *= 2


def try_micro_batch(
    recipe: Recipe,
    device: torch.device,
    rows: int,
    precision: Precision,
    *,
    is_compiled: bool,
) -> Tried | None:
    """Train some steps of so many rows; ``None`` if memory runs out."""
    try:
        return _train(recipe, device, rows, precision, is_compiled=is_compiled)
    except torch.OutOfMemoryError:
        return None
    finally:
        if is_compiled:
            torch.compiler.reset()  # it takes few sizes of one function, then refuses
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def table_of(recipe: Recipe, tries: list[Tried], total_bytes: int) -> Table:
    """Sizes with what they take; the largest is the last."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("micro-batch", "tokens", "memory", "of the GPU", "tokens/s", ""):
        table.add_column(column, justify="left" if not column else "right")
    for tried in tries:
        tokens = tried.micro_batch * recipe.batch.length
        notes = ["the recipe's"] * (tried.micro_batch == recipe.batch.micro_batch)
        notes += ["the largest that fits"] * (tried is tries[-1])
        table.add_row(
            f"{tried.micro_batch}",
            f"{tokens:,}",
            f"{tried.peak_bytes / 2**30:.1f} GiB",
            f"{tried.peak_bytes / total_bytes:.0%}",
            f"{tokens / tried.seconds:,.0f}",
            ", ".join(notes),
        )
    if not tries:
        table.add_row("none", "", "", "", "", "one row does not fit: shorter rows or recomputing")
    return table


def _train(
    recipe: Recipe, device: torch.device, rows: int, precision: Precision, *, is_compiled: bool
) -> Tried:
    decoder = Decoder(recipe.model)
    initialize(decoder, recipe.seed)
    decoder.to(device).train()
    loss_of: BatchLoss = batch_loss
    if is_compiled:
        compile_blocks(decoder)
        loss_of = compiled_batch_loss()
    if recipe.half_residual:
        halve_residual(decoder)
    if recipe.activation_checkpointing:
        recompute_activations(decoder)
    is_gpu = device.type == "cuda"
    optimizer = Optimizer(
        decoder.named_parameters(),
        recipe.optimizer,
        getattr(torch, precision),
        reads_back=not is_gpu,
    )
    rates = rates_at(recipe.optimizer, recipe.phases[0], 1.0)
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    shape, seconds = (rows, recipe.batch.length), []
    for _ in range(STEPS):
        inputs, targets = (
            torch.randint(recipe.model.vocab_size, shape, device=device) for _ in range(2)
        )
        started = time.perf_counter()
        with repeatable(device, wanted=recipe.deterministic):
            with autocast(precision, device):
                loss = loss_of(decoder, inputs, targets)
            loss.backward()  # type: ignore[no-untyped-call]
        norm = optimizer.step(rates, divisor=targets.numel()).norm
        optimizer.zero_grad()
        float(norm)  # the step is over when this is known
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated(device) if is_gpu else 0
    return Tried(rows, min(seconds[1:]), peak)
