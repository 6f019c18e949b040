"""Sides of ``bench.training.gpu``: this trainer's whole loop and Hugging Face's ``Trainer``."""

import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.training.measured import Measured, Shape
from bench.training.workload import comparable
from trainer.recipe.recipes import override
from trainer.recipe.schema import Recipe
from trainer.report.events import Compiling, Evaluated, Event, Note, Published, Snapshotted, Trained
from trainer.run.assemble import train
from trainer.run.interrupt import Interrupt


class Enough(Exception):
    """All steps that were wanted are measured."""


class Follow:
    """Takes the time between a trainer's steps; what evaluation and checkpoints take is apart."""

    def __init__(self, measured: Measured, steps: int) -> None:
        self._measured = measured
        self._steps = steps
        self._mark = time.perf_counter()
        self._is_marred = False
        self.losses: list[float] = []

    def hear(self, event: Event) -> None:
        """See ``trainer.report.events.Listener``."""
        extra = self._measured.extra
        match event:
            case Trained():
                self._trained(event)
            case Evaluated(seconds=seconds):
                extra["evaluation_s"] = seconds
                self._leave_out()
            case Snapshotted(stall_s=stall_s):
                extra.setdefault("stalls_s", []).append(stall_s)
                self._leave_out()
            case Published(write_s=write_s):
                extra["write_s"] = write_s
            case Note(text) if text.startswith("precision"):
                self._mark = time.perf_counter()
            case Note(text, is_warning=True):
                extra.setdefault("warnings", []).append(text)
            case Compiling():
                self._mark = time.perf_counter()

    def _leave_out(self) -> None:
        """Leave out the step after this event, and the one before.

        On a GPU the loop reads a step late but both steps at once here: the second seems instant.
        """
        if not self._is_marred and self._measured.seconds:
            self._measured.seconds.pop()
        self._is_marred = True

    def _trained(self, event: Trained) -> None:
        now = time.perf_counter()
        if not self._is_marred:
            self._measured.seconds.append(now - self._mark)
        self._mark, self._is_marred = now, False
        self.losses.append(event.loss)
        self._measured.extra["last_loss"] = round(event.loss, 3)
        self._measured.extra["tokens_per_s_by_its_own_count"] = event.tokens_per_s
        if len(self.losses) >= self._steps:
            raise Enough


def measure_ours(
    shape: Shape,
    steps: int,
    device: torch.device,
    *,
    compiles: bool | str,
    optimizer: str = "adamw",
    **changes: object,
) -> Measured:
    """``trainer.run.assemble.train``, with evaluation and a checkpoint in the middle, journal and
    log."""
    recipe = recipe_of(shape, steps, compiles=compiles, optimizer=optimizer)
    recipe = recipe.model_copy(update=changes)
    measured = Measured(device)
    follow = Follow(measured, steps)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as volume:
        with contextlib.suppress(Enough):
            train(
                recipe,
                Path(volume) / "run",
                device=device.type,
                interrupt=Interrupt(),
                console=Console(file=io.StringIO()),
                listeners=(follow,),
            )
        measured.wait()
    return measured


def recipe_of(shape: Shape, steps: int, *, compiles: bool | str, optimizer: str) -> Recipe:
    """The shape as a recipe over text that is made here."""
    middle = steps // 2 + 1  # once in the run, and not at its end
    recipe = comparable(
        "smollm2-135m",
        "tokenizer.source=train",
        f"tokenizer.vocab_size={min(1024, shape.vocab)}",
        f"model.num_hidden_layers={shape.layers}",
        f"model.hidden_size={shape.width}",
        f"model.intermediate_size={shape.inner}",
        f"model.num_attention_heads={shape.heads}",
        f"model.num_key_value_heads={shape.kv_heads}",
        f"model.vocab_size={shape.vocab}",
        batch=(shape.rows, shape.length),
    )
    return override(
        recipe,
        (
            "sources.0.max_bytes=1000000",
            f"optimizer.name={optimizer}",
            f"compile={str(compiles).lower()}",
            f"cadence.eval_every={middle}",
            f"cadence.eval_tokens={2 * shape.rows * shape.length}",
            f"cadence.checkpoint_every={middle}",
        ),
    )


def measure_theirs(shape: Shape, steps: int, device: torch.device, *, compiles: bool) -> Measured:
    """Hugging Face's ``Trainer`` as it is, bfloat16 and fused AdamW, on random tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback
    from transformers import TrainingArguments as Arguments

    measured = Measured(device)
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.length,
        tie_word_embeddings=True,
        use_cache=False,
    )
    torch.manual_seed(0)
    tokens = torch.randint(shape.vocab, (shape.rows * steps, shape.length))

    class Clock(TrainerCallback):  # type: ignore[misc]
        mark = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            measured.wait()
            self.mark = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            measured.wait()
            measured.seconds.append(time.perf_counter() - self.mark)

    with tempfile.TemporaryDirectory() as scratch:
        arguments = Arguments(
            output_dir=scratch,
            per_device_train_batch_size=shape.rows,
            max_steps=steps,
            bf16=True,
            use_cpu=device.type == "cpu",
            torch_compile=compiles,
            optim="adamw_torch_fused",
            learning_rate=3e-4,
            max_grad_norm=1.0,
            lr_scheduler_type="constant",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        rows = [{"input_ids": row, "labels": row} for row in tokens]
        model = LlamaForCausalLM(config)
        Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[Clock()]).train()
    return measured


def median_stall(rows: list[dict[str, Any]]) -> float | None:
    """Of all checkpoints of all rows, seconds; ``None`` if there were none."""
    stalls = [stall for row in rows for stall in row.get("stalls_s", [])]
    return statistics.median(stalls) if stalls else None
