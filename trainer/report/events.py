"""What happens in a run, as plain values, and the face of whoever is told.

Steps are in the recipe's unit, losses in nats a token. ``trainer.run.reporter`` makes events, the
journal, the log, the exported metrics and TensorBoard hear them.
"""

import dataclasses
from typing import Protocol

from trainer.step.counters import Counters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Began:
    """A process takes up a run."""

    step: int
    """Last completed step."""
    counters: Counters
    """Where the run stands."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiling:
    """The step after this one compiles code first, which takes seconds."""

    step: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """An optimizer step that was due to be logged."""

    step: int
    loss: float
    loss_average: float
    """Running average."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    tokens_seen: int
    tokens_per_s: float
    """Since the event before; evaluation, samples and saving are not in it."""
    share_of_peak: float | None = None
    """FLOPs of these tokens by the FLOPs of matrix products that the machine was measured at."""
    train_seconds: float
    """Spent in optimizer steps, over the whole run."""
    skipped_steps: int
    resident_bytes: int
    """Memory of the process."""
    gpu_bytes: int | None
    """Memory of the device that holds the model; ``None`` on a CPU."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """An optimizer step whose loss or gradient was not finite."""

    step: int
    in_a_row: int
    skipped_steps: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A measurement on held-out text."""

    step: int
    validation_loss: float
    bits_per_byte: float
    gap: float | None
    """Validation loss over the running average of the training loss."""
    validation_tokens: int
    memorising: bool
    best_step: int | None
    best_validation_loss: float | None
    tokens_seen: int
    train_seconds: float
    seconds: float
    """How long it took."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampled:
    """A text that the model wrote."""

    step: int
    prompt: str
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshotted:
    """The run was copied for a checkpoint; training stood still so long."""

    step: int
    stall_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A snapshot became a step of the volume, or could not."""

    step: int
    write_s: float
    """From the start of the write to its end, beside the training."""
    error: str | None


@dataclasses.dataclass(frozen=True)
class Note:
    """Something to be said once."""

    text: str
    is_warning: bool = False


Event = Began | Compiling | Trained | Skipped | Evaluated | Sampled | Snapshotted | Published | Note


class Listener(Protocol):
    """Is told of every event, from one thread at a time."""

    def hear(self, event: Event) -> None:
        """Take note of an event, or do nothing."""
