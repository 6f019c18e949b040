"""Makes events of what the loop says, and tells everyone who listens.

What is derived (speed, the gap to the training loss, memory) is derived here, once, so that no
two listeners disagree.
"""

from collections.abc import Sequence

import torch

from trainer.recipe.sections import PhaseConfig
from trainer.report.events import (
    Began,
    Compiling,
    Evaluated,
    Event,
    Listener,
    Note,
    Published,
    Sampled,
    Skipped,
    Snapshotted,
    Trained,
)
from trainer.report.memory import gpu_bytes, resident_bytes
from trainer.run.checkpoint import Written
from trainer.step.counters import Counters
from trainer.step.evaluate import Evaluation
from trainer.step.optimizer import Rates
from trainer.step.samples import Sample


class Report:
    """One run's voice; steps are in the recipe's unit."""

    def __init__(self, listeners: Sequence[Listener], device: torch.device) -> None:
        self._listeners = listeners
        self._device = device
        self._last = Counters()
        """At the step logged before, for the speed since then."""
        self._tokens_at_peak: float | None = None
        """Tokens a second at the machine's peak, once that is known."""

    def began(self, step: int, counters: Counters) -> None:
        """A run is taken up where it stands."""
        self._last = counters
        self._tell(Began(step=step, counters=counters))

    def at_peak(self, flops_per_token: int, peak_flops: float) -> None:
        """What a token takes, and what the machine can do a second."""
        self._tokens_at_peak = peak_flops / flops_per_token
        self.note(
            f"{flops_per_token / 1e9:,.3f} GFLOPs a token; matrix products run at "
            f"{peak_flops / 1e12:,.2f} TFLOP/s here"
        )

    def note(self, text: str) -> None:
        """Say something once."""
        self._tell(Note(text))

    def warn(self, text: str) -> None:
        """Say something that may surprise."""
        self._tell(Note(text, is_warning=True))

    def phase(self, step: int, phase: PhaseConfig, peak: Rates) -> None:
        """A phase begins."""
        self.note(
            f"step {step} · phase {phase.name}: {phase.schedule.name}, lr {peak.lr:g}, "
            f"weight decay {peak.weight_decay:g}"
        )

    def compiling(self, step: int) -> None:
        """The next step compiles code before it trains."""
        self._tell(Compiling(step=step))

    def trained(
        self, step: int, counters: Counters, *, loss: float, gradient_norm: float, rates: Rates
    ) -> None:
        """An optimizer step that is due to be logged."""
        tokens = counters.tokens_seen - self._last.tokens_seen
        seconds = counters.train_seconds - self._last.train_seconds
        self._last = counters
        speed = tokens / seconds if seconds > 0 else 0.0
        peak = self._tokens_at_peak
        self._tell(
            Trained(
                step=step,
                loss=loss,
                loss_average=loss if counters.loss_average is None else counters.loss_average,
                learning_rate=rates.lr,
                gradient_norm=gradient_norm,
                tokens_seen=counters.tokens_seen,
                tokens_per_s=round(speed, 1),
                share_of_peak=None if peak is None else round(speed / peak, 4),
                train_seconds=round(counters.train_seconds, 3),
                skipped_steps=counters.skipped_steps,
                resident_bytes=resident_bytes(),
                gpu_bytes=gpu_bytes(self._device),
            )
        )

    def skipped(self, step: int, counters: Counters) -> None:
        """An optimizer step whose loss or gradient was not finite."""
        self._tell(
            Skipped(
                step=step,
                in_a_row=counters.skipped_in_a_row,
                skipped_steps=counters.skipped_steps,
            )
        )

    def evaluated(
        self, step: int, counters: Counters, evaluation: Evaluation, seconds: float
    ) -> None:
        """An evaluation."""
        average = counters.loss_average
        self._tell(
            Evaluated(
                step=step,
                validation_loss=evaluation.loss,
                bits_per_byte=evaluation.bits_per_byte,
                gap=None if average is None else evaluation.loss - average,
                validation_tokens=evaluation.tokens,
                memorising=counters.is_memorising,
                best_step=counters.best_step,
                best_validation_loss=counters.best_validation_loss,
                tokens_seen=counters.tokens_seen,
                train_seconds=round(counters.train_seconds, 3),
                seconds=round(seconds, 3),
            )
        )

    def sampled(self, step: int, sample: Sample) -> None:
        """A sampled text."""
        self._tell(Sampled(step=step, prompt=sample.prompt, text=sample.text))

    def saving(self, step: int, stall_s: float) -> None:
        """A snapshot was taken; the loop stood still for so long."""
        self._tell(Snapshotted(step=step, stall_s=round(stall_s, 4)))

    def written(self, written: Written) -> None:
        """A snapshot became a step, or could not."""
        error = (
            None if written.error is None else str(written.error) or type(written.error).__name__
        )
        self._tell(Published(step=written.step, write_s=round(written.seconds, 4), error=error))

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener.hear(event)
