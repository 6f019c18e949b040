"""One side of a comparison, in a process of its own: our trainer, or Hugging Face's ``Trainer``.

Ours is ``trainer.run.assemble.train`` as ``python -m trainer`` calls it, journal and log included.
Theirs is ``Trainer`` over ``LlamaForCausalLM`` with fused AdamW, nothing logged or saved, no
workers; it reads our step directory as its model. A step is timed from the end of the one before:
taking the batch is in it, on both sides.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.training.pace import Enough, Pace
from bench.training.workload import RUN, open_batches
from trainer.recipe.schema import Recipe
from trainer.report.events import Event, Trained
from trainer.run.assemble import train
from trainer.run.interrupt import Interrupt
from trainer.step.fused.allocator import keep_freed_memory

SIDES = {
    "ours": "this trainer",
    "ours-compiled": "this trainer, compile: true",
    "huggingface": "Hugging Face Trainer",
    "huggingface-eager": "Hugging Face Trainer, eager attention",
    "huggingface-allocator": "Hugging Face Trainer in our allocator setting",
}


def main() -> None:
    """Train one side in rounds; a JSON line a step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("recipe", type=Path, help="a recipe as YAML")
    parser.add_argument("volume", type=Path)
    parser.add_argument("rounds", nargs="+", type=int, help="steps of each round")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    recipe = Recipe.from_yaml(options.recipe.read_text("utf-8"))
    pace = Pace(options.rounds)
    with contextlib.suppress(Enough):
        if options.side.startswith("ours"):
            ours(recipe, options.volume, pace, options.side, options.device)
        else:
            steps, is_cpu = sum(options.rounds), options.device == "cpu"
            huggingface(recipe, options.volume, pace, options.side, steps=steps, use_cpu=is_cpu)


@dataclasses.dataclass(frozen=True)
class Follow:
    """Passes on the losses of our trainer's steps."""

    pace: Pace

    def hear(self, event: Event) -> None:
        """See ``trainer.report.events.Listener``."""
        if isinstance(event, Trained):
            self.pace.step(event.loss)


def ours(recipe: Recipe, volume: Path, pace: Pace, side: str = "ours", device: str = "cpu") -> None:
    """Train with this project's trainer, in a copy of the run for each side."""
    run_dir = volume / side / RUN
    shutil.copytree(volume / RUN, run_dir)
    pace.rest()
    train(
        recipe.model_copy(update={"compile": side == "ours-compiled"}),
        run_dir,
        device=device,
        interrupt=Interrupt(),
        console=Console(file=io.StringIO()),
        listeners=(Follow(pace),),
    )


def huggingface(
    recipe: Recipe, volume: Path, pace: Pace, side: str, *, steps: int, use_cpu: bool = True
) -> None:
    """Train with Hugging Face's ``Trainer``."""
    from transformers import AutoModelForCausalLM

    if side == "huggingface-allocator":
        keep_freed_memory()
    attention = "eager" if side == "huggingface-eager" else "sdpa"
    [directory] = (volume / RUN).glob("step-*")
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation=attention
    )
    with tempfile.TemporaryDirectory() as scratch:
        batches = open_batches(recipe, volume)
        trainer = their_trainer(model, recipe, batches, pace, steps, scratch, use_cpu=use_cpu)
        trainer.train()


def their_trainer(
    model: Any,
    recipe: Recipe,
    batches: Any,
    pace: Pace,
    steps: int,
    scratch: str,
    *,
    use_cpu: bool = True,
) -> Any:
    """Their trainer on our batches: its fastest settings that change nothing that is learnt."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    losses: list[torch.Tensor] = []

    class OnOurBatches(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)

        def training_step(self, *arguments: Any, **keywords: Any) -> torch.Tensor:
            losses.append(super().training_step(*arguments, **keywords))
            return losses[-1]

    class Follow(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            pace.rest()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            pace.step(float(losses.pop()))

    optimizer = recipe.optimizer
    arguments = TrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=recipe.batch.micro_batch,
        max_steps=steps,
        bf16=True,
        use_cpu=use_cpu,
        optim="adamw_torch_fused",
        learning_rate=optimizer.lr,
        adam_beta1=optimizer.betas[0],
        adam_beta2=optimizer.betas[1],
        adam_epsilon=optimizer.eps,
        weight_decay=0.0,
        max_grad_norm=optimizer.grad_clip,
        lr_scheduler_type="constant",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    return OnOurBatches(
        model=model,
        args=arguments,
        train_dataset=Rows(batches, recipe.batch.micro_batch, steps),
        callbacks=[Follow()],
    )


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Our micro-batches, row by row; their collator puts them together again."""

    def __init__(self, batches: Any, micro_batch: int, steps: int) -> None:
        self._batches = batches
        self._micro_batch = micro_batch
        self._steps = steps
        self._at: int | None = None
        self._now: tuple[torch.Tensor, torch.Tensor]

    def __len__(self) -> int:
        """Rows in all."""
        return self._micro_batch * self._steps

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        """One row, [T] each; ``shift_labels`` are targets that are shifted already."""
        index, place = divmod(row, self._micro_batch)
        if self._at != index:
            self._at, self._now = index, self._batches.micro_batch(index)
        inputs, targets = (tensor[place] for tensor in self._now)
        return {"input_ids": inputs, "labels": inputs, "shift_labels": targets}


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
