"""A run as it stood after one optimizer step, copied to the CPU: what a checkpoint is made of."""

import dataclasses
import platform

import numpy as np
import tokenizers
import torch
from torch import Tensor

from lm.decoder import Decoder
from lm.tokenizer import Tokenizer
from lm.volume import Progress, StepDetails
from trainer.config import Recipe
from trainer.memorising import FLAG
from trainer.optimizer import Optimizer
from trainer.plan import Plan
from trainer.precision import Precision
from trainer.state import Counters, TrainingState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything of one published step; nothing in it changes any more."""

    step: int
    """In the recipe's unit."""
    weights: dict[str, Tensor]
    """CPU copies by published name."""
    moments: dict[str, Tensor]
    """CPU copies by ``<parameter>/<moment>``."""
    state: TrainingState
    details: StepDetails


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What snapshots are taken of, and what stays the same in all of one process."""

    recipe: Recipe
    decoder: Decoder
    optimizer: Optimizer
    tokenizer: Tokenizer
    precision: Precision
    flags: tuple[str, ...] = ()
    """What the manifest says of the run, whatever its step."""

    def snapshot(self, counters: Counters) -> Snapshot:
        """Copy the run; no optimizer step may be under way."""
        plan, versions = Plan(self.recipe), library_versions(self.decoder.lm_head.weight.device)
        state = TrainingState(
            counters=counters,
            precision=self.precision,
            horizons=plan.horizons,
            recipe=self.recipe.binding(),
            versions=versions,
        )
        details = StepDetails(
            model_config=self.recipe.model,
            tokenizer_fingerprint=self.tokenizer.fingerprint,
            progress=Progress(
                micro_step=counters.micro_step,
                optimizer_step=plan.optimizer_step(counters.micro_step),
                tokens_seen=counters.tokens_seen,
                unit=plan.unit,
            ),
            metrics=_metrics(counters, plan.step(counters.micro_step)),
            flags=self.flags + (FLAG,) * counters.is_memorising,
            recipe_hash=self.recipe.recipe_hash,
            resumable=True,
            versions=versions,
        )
        return Snapshot(
            step=plan.step(counters.micro_step),
            weights={name: _copy(tensor) for name, tensor in self.decoder.named_parameters()},
            moments={
                name: _copy(tensor) for name, tensor in self.optimizer.state_tensors().items()
            },
            state=state,
            details=details,
        )


def library_versions(device: torch.device) -> dict[str, str]:
    """What the bits of a run depend on beside its recipe."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tokenizers": tokenizers.__version__,
        "numpy": np.__version__,
        "device": device.type,
        "threads": str(torch.get_num_threads()),
    }


def _metrics(counters: Counters, step: int) -> dict[str, float]:
    """Figures of the manifest; validation only where it was measured on these very weights."""
    metrics: dict[str, float | None] = {"train_loss": counters.loss_average}
    if counters.evaluated_at == step:
        metrics["val_loss"] = counters.validation_loss
        metrics["val_bits_per_byte"] = counters.bits_per_byte
    return {name: value for name, value in metrics.items() if value is not None}


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
