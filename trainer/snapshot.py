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
    """Everything of one published step; its tensors are the subject's until the next one."""

    step: int
    """In the recipe's unit."""
    weights: dict[str, Tensor]
    """On the CPU, by published name."""
    moments: dict[str, Tensor]
    """On the CPU, by ``<parameter>/<moment>``."""
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

    _copies: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """Memory that every snapshot is copied into: pages that are new take longer than the copy."""

    def reserve(self) -> None:
        """Get the memory of snapshots ready, where it is not; moments come with the first step."""
        for name, tensor in (self._weights() | self.optimizer.state_tensors()).items():
            if name not in self._copies:
                self._copies[name] = torch.ones_like(
                    tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False
                )

    def snapshot(self, counters: Counters) -> Snapshot:
        """Copy the run over the snapshot before, which must be done with.

        No optimizer step may be under way.
        """
        self.reserve()
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
            weights=self._copy(self._weights()),
            moments=self._copy(self.optimizer.state_tensors()),
            state=state,
            details=details,
        )

    def _weights(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.decoder.named_parameters()}

    def _copy(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._copies[name].copy_(tensor) for name, tensor in tensors.items()}


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
