"""Puts one run together, from its recipe and whatever its directory holds, and trains it.

The newest complete step wins: if there is one, weights, moments, counters, tokenizer and
precision come from it, and the recipe only has to agree. Everything that touches disk, clock or
device at the start is reached from here; ``trainer.run.loop`` gets finished parts.
"""

from pathlib import Path

import torch
from rich.console import Console

from lm.machine.threads import Roots
from lm.model.decoder import Decoder
from lm.model.device import pick_device
from lm.text.tokenizer import Tokenizer
from lm.volume import Retention, RunLock, StepDamaged, newest_sound_step, sweep
from trainer.data.datasets import Data, changed_data, open_data
from trainer.recipe.changes import Amendment, differences
from trainer.recipe.describe import summary
from trainer.recipe.schema import Recipe
from trainer.recipe.step_plan import Plan
from trainer.report.events import Listener
from trainer.report.log import Log
from trainer.report.peak import measured_peak
from trainer.report.progress import show
from trainer.report.run_journal import Journal
from trainer.run.checkpoint import Checkpointer
from trainer.run.interrupt import Interrupt
from trainer.run.loop import Ending, Loop
from trainer.run.optimizer_steps import Parts
from trainer.run.reporter import Report
from trainer.run.resume import Start
from trainer.run.snapshot import Subject, library_versions
from trainer.run.state import MOMENTS_FILE
from trainer.step.compiled import compile_blocks, compiled_batch_loss, is_to_be_compiled
from trainer.step.fused.allocator import keep_freed_memory
from trainer.step.fused.norm import use_fast_norms
from trainer.step.fused.recompute import recompute_activations
from trainer.step.fused.residual import halve_residual
from trainer.step.loss import batch_loss
from trainer.step.optimizer import Optimizer
from trainer.step.precision import Precision, choose_precision, float32_products, prepare_repeatable

TOKEN_CACHE = ".cache/tokens"  # noqa: S105
"""In the volume, for all of its runs."""


_FAREWELLS = {
    Ending.COMPLETE: "run {run} is complete at step {step:,}",
    Ending.LIMIT: "run {run} is saved at step {step:,}, where it was asked to stop",
    Ending.INTERRUPTED: "run {run} was interrupted; it is saved at step {step:,}",
}


def train(
    recipe: Recipe,
    run_dir: Path,
    *,
    device: str = "auto",
    last_step: int | None = None,
    amendment: Amendment | None = None,
    interrupt: Interrupt,
    console: Console,
    listeners: tuple[Listener, ...] = (),
    reads_back: bool | None = None,
) -> Ending:
    """Train a run from where it stands to its end, to ``last_step``, or until interrupted.

    ``listeners`` hear of it beside the run's own log and journal. ``reads_back`` says whether the
    host reads what each step came to before the next; ``None``: everywhere but on a GPU.

    Raises:
        ValueError: the recipe, its data or the run's directory cannot be used; one line says why.
        OSError: the volume is full or not writable.
        Diverged: losses or gradients stopped being finite.

    """
    keep_freed_memory()
    with RunLock(run_dir):
        sweep(run_dir)
        damages: list[StepDamaged] = []
        newest = newest_sound_step(run_dir, on_damage=damages.append)
        start = Start.at(newest, recipe, amendment or Amendment())
        plan = Plan(start.recipe)
        done = plan.step(start.counters.micro_step)
        with show(run_dir, total=plan.num_steps, done=done, console=console) as bar:
            journal = Journal(run_dir)
            journal.rewind(
                trained=done,
                evaluated=start.counters.evaluated_at,
                sampled=start.counters.sampled_at,
            )
            where = pick_device(device)
            own: tuple[Listener, ...] = (journal, Log(bar, total_steps=plan.num_steps))
            report = Report(own + listeners, where)
            report.began(done, start.counters)
            length = f"{plan.num_steps:,} ({plan.unit} steps)"
            report.note(f"run {run_dir.name}: {start.description} of {length}")
            report.note(summary(start.recipe.model))
            for damage in damages:
                report.warn(f"passed over: {damage}")
            for change in start.kept:
                report.warn(f"the imported model's value is kept: {change}")
            for change in start.changes:
                report.warn(f"forced into the run's recipe: {change}")
            with float32_products(start.recipe.float32_matmul):
                parts = _assemble(
                    run_dir, start, where, report, interrupt, console, reads_back=reads_back
                )
                loop = Loop(parts, start.counters)
                ending = loop.run(last_step)
            report.note(_FAREWELLS[ending].format(run=run_dir.name, step=loop.step))
            return ending


def _assemble(
    run_dir: Path,
    start: Start,
    device: torch.device,
    report: Report,
    interrupt: Interrupt,
    console: Console,
    *,
    reads_back: bool | None,
) -> Parts:
    """Everything that the loop works on."""
    if reads_back is None:
        reads_back = device.type != "cuda"
    recipe, cache = start.recipe, run_dir.parent / TOKEN_CACHE
    prepare_repeatable(device, wanted=recipe.deterministic)
    data = open_data(recipe, start.step, cache, console=console, note=report.note)
    _compare_data(start, data, report)
    is_compiled = is_to_be_compiled(recipe, device, report.warn)
    decoder = _decoder(start, device, is_compiled=is_compiled)
    precision = _precision(start, device, report)
    optimizer = Optimizer(
        decoder.named_parameters(),
        recipe.optimizer,
        getattr(torch, precision),
        reads_back=reads_back,
    )
    _load_moments(optimizer, start)
    subject = Subject(
        recipe=recipe,
        decoder=decoder,
        optimizer=optimizer,
        tokenizer=data.tokenizer,
        precision=precision,
        flags=data.flags,
        data_hashes=data.hashes,
        asked_model=start.asked_model,
    )
    peak = measured_peak(device, subject.precision)
    report.at_peak(recipe.model.flops_per_token(recipe.batch.length), peak)
    return Parts(
        subject=subject,
        batch_loss=compiled_batch_loss() if is_compiled else batch_loss,
        data=data,
        checkpointer=_checkpointer(run_dir, recipe, data.tokenizer, report, interrupt.roots),
        report=report,
        interrupt=interrupt,
        reads_back=reads_back,
        is_compiled=is_compiled,
    )


def _load_moments(optimizer: Optimizer, start: Start) -> None:
    try:
        optimizer.load_state_tensors(start.moments)
    except ValueError as error:
        assert start.step is not None, "they are a step's"
        raise StepDamaged(f"{start.step.path / MOMENTS_FILE}: {error}") from error


def _compare_data(start: Start, data: Data, report: Report) -> None:
    """Raise ``ValueError`` if the text is not what the run was trained on, unless that is asked."""
    if start.state is None:
        return
    changed = changed_data(start.recipe, start.state.data, data, start.changed_sources)
    if changed and not start.accepts_data:
        raise ValueError(
            f"{', '.join(changed)}: changed since the run was saved; restore it, go on with what "
            "is there now with --accept-data, or choose another --run"
        )
    for name in changed:
        report.warn(f"accepted although it changed in mid-run: {name}")


def _checkpointer(
    run_dir: Path, recipe: Recipe, tokenizer: Tokenizer, report: Report, roots: Roots
) -> Checkpointer:
    retention = recipe.retention
    return Checkpointer(
        run_dir,
        Retention(
            keep_last=retention.keep_last,
            keep_every=retention.keep_every,
            keep_steps=retention.keep_steps,
        ),
        keep_best=retention.keep_best,
        model_config=recipe.model,
        tokenizer=tokenizer,
        on_written=report.written,
        roots=roots,
    )


def _decoder(start: Start, device: torch.device, *, is_compiled: bool) -> Decoder:
    """The run's decoder, computed as the recipe and the device want it."""
    recipe = start.recipe
    decoder = start.open_decoder(device)
    if is_compiled:
        compile_blocks(decoder)
    elif device.type == "cpu":  # GPUs have a fused one
        use_fast_norms(decoder)
    if recipe.half_residual:
        halve_residual(decoder)
    if recipe.activation_checkpointing:
        recompute_activations(decoder)
    return decoder


def _precision(start: Start, device: torch.device, report: Report) -> Precision:
    """The precision that the run began with; measured when it begins."""
    if start.state is not None:
        for change in differences(start.state.versions, library_versions(device)):
            report.warn(f"resumed with {change}: its bits may differ from an uninterrupted run's")
    if start.precision is not None:
        return start.precision
    precision, reason = choose_precision(start.recipe, device)
    report.note(f"precision {reason}")
    return precision
