"""A run as it stood after one optimizer step, copied to the CPU: what a checkpoint is made of.

From a GPU the copy runs on a stream of its own, beside the next step's forward and backward
passes; that step's update waits for it on the device (``Subject.before_update``), and whoever
writes the snapshot waits for it on the host (``Snapshot.wait``). The loop waits for neither.
"""

import contextlib
import dataclasses
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tokenizers
import torch
from torch import Tensor

from lm.model.decoder import Decoder
from lm.text.tokenizer import Tokenizer
from lm.volume import Progress, StepDetails
from trainer.recipe.schema import Recipe
from trainer.recipe.step_plan import Plan
from trainer.run.state import TrainingState
from trainer.step.counters import Counters
from trainer.step.memorising import FLAG
from trainer.step.optimizer import Optimizer
from trainer.step.precision import Precision


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
    copied: torch.cuda.Event | None = None
    """When the tensors hold what they should, if not yet."""

    def wait(self) -> None:
        """Wait for the copies; nothing may read the tensors before."""
        if self.copied is not None:
            self.copied.synchronize()


@dataclasses.dataclass(kw_only=True)
class Subject:
    """What snapshots are taken of, and what stays the same in all of one process."""

    recipe: Recipe
    decoder: Decoder
    optimizer: Optimizer
    tokenizer: Tokenizer
    precision: Precision
    flags: tuple[str, ...] = ()
    """What the manifest says of the run, whatever its step."""
    data_hashes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of the training state: what the run reads from outside the volume."""
    asked_model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of the training state: where an imported model was kept."""

    _copies: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """Memory that every snapshot is copied into: pages that are new take longer than the copy."""
    _stream: torch.cuda.Stream | None = None
    _copied: torch.cuda.Event | None = None
    """Of the last snapshot, while an update has still to wait for it."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.lm_head.weight.device

    def reserve(self) -> None:
        """Get the memory of snapshots ready, where it is not; moments come with the first step."""
        for name, tensor in (self._weights() | self.optimizer.state_tensors()).items():
            if name not in self._copies:
                self._copies[name] = torch.ones_like(
                    tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False
                )

    def before_update(self) -> None:
        """Let the device finish copying the last snapshot before what follows changes weights."""
        if self._copied is not None:
            torch.cuda.current_stream(self.device).wait_event(self._copied)
            self._copied = None

    def snapshot(self, counters: Counters) -> Snapshot:
        """Copy the run over the snapshot before, which must be done with.

        No optimizer step may be under way.
        """
        self.reserve()
        plan, versions = Plan(self.recipe), library_versions(self.device)
        state = TrainingState(
            counters=counters,
            precision=self.precision,
            horizons=plan.horizons,
            recipe=self.recipe.binding(),
            versions=versions,
            asked_model=self.asked_model,
            data=self.data_hashes,
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
        with self._beside_training():
            weights = self._copy(self._weights())
            moments = self._copy(self.optimizer.state_tensors())
        return Snapshot(
            step=plan.step(counters.micro_step),
            weights=weights,
            moments=moments,
            state=state,
            details=details,
            copied=self._copied,
        )

    @contextlib.contextmanager
    def _beside_training(self) -> Iterator[None]:
        """A context whose copies run beside the next step, after all that is under way."""
        if self.device.type != "cuda":
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            yield
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def _weights(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.decoder.named_parameters()}

    def _copy(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: self._copies[name].copy_(tensor, non_blocking=True)
            for name, tensor in tensors.items()
        }


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
