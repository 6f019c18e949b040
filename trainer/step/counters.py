"""Where a run stands, in numbers."""

import dataclasses
import math
from typing import Self

from trainer.step.evaluate import Evaluation
from trainer.step.loss_scale import next_scale
from trainer.step.memorising import PATIENCE, shows_memorising

AVERAGE_SHARE = 0.02
"""Weight of the newest loss in the running average, about the last 50 steps; the first of
them are averaged evenly."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counters:
    """Where a run stands; every value is as of the last completed optimizer step."""

    micro_step: int = 0
    tokens_seen: int = 0
    skipped_steps: int = 0
    """Optimizer steps that a non-finite loss or gradient took no part in."""
    skipped_in_a_row: int = 0
    """Without those that a lower loss scale may cure."""
    loss_scale: float | None = None
    """What float16 losses are multiplied by; other precisions have none."""
    steps_at_scale: int = 0
    loss_average: float | None = None
    """Running average of the training loss, nats a token."""
    train_seconds: float = 0.0
    """Time in optimizer steps alone; evaluation, samples and saving are not in it."""
    evaluated_at: int = 0
    """Step of the last evaluation."""
    sampled_at: int = 0
    """Step of the last samples."""
    validation_loss: float | None = None
    """Nats a token at the last evaluation; ``None`` if it was not finite."""
    bits_per_byte: float | None = None
    best_step: int | None = None
    """Step with the lowest validation loss so far."""
    best_validation_loss: float | None = None
    average_at_best: float | None = None
    """``loss_average`` at that step."""
    memorised_in_a_row: int = 0
    """Last evaluations that all showed memorising."""

    @property
    def is_memorising(self) -> bool:
        """Whether enough evaluations in a row showed it."""
        return self.memorised_in_a_row >= PATIENCE

    def after_step(self, *, micro_steps: int, tokens: int, loss: float, skipped: bool) -> Self:
        """Counters after one more optimizer step; a skipped one adds nothing to the average."""
        average = self.loss_average
        if not skipped:
            share = max(AVERAGE_SHARE, micro_steps / (self.micro_step + micro_steps))
            average = loss if average is None else average + share * (loss - average)
        scale, at_scale = self.loss_scale, self.steps_at_scale
        may_be_cured = scale is not None and scale > 1.0 and math.isfinite(loss)
        in_a_row = self.skipped_in_a_row + (not may_be_cured) if skipped else 0
        if scale is not None:
            scale, at_scale = next_scale(scale, at_scale, skipped=skipped)
        return dataclasses.replace(
            self,
            micro_step=self.micro_step + micro_steps,
            tokens_seen=self.tokens_seen + tokens,
            skipped_steps=self.skipped_steps + skipped,
            skipped_in_a_row=in_a_row,
            loss_scale=scale,
            steps_at_scale=at_scale,
            loss_average=average,
        )

    def after_evaluation(self, step: int, evaluation: Evaluation) -> Self:
        """Counters after an evaluation at a step; one that is not finite compares with none."""
        loss, average, best_loss = evaluation.loss, self.loss_average, self.best_validation_loss
        if not math.isfinite(loss):
            return dataclasses.replace(
                self, evaluated_at=step, validation_loss=None, bits_per_byte=None
            )
        now = dataclasses.replace(
            self, evaluated_at=step, validation_loss=loss, bits_per_byte=evaluation.bits_per_byte
        )
        if best_loss is None or loss < best_loss:
            return dataclasses.replace(
                now,
                best_step=step,
                best_validation_loss=loss,
                average_at_best=average,
                memorised_in_a_row=0,
            )
        shown = shows_memorising(
            loss, average, best_loss=best_loss, average_at_best=self.average_at_best
        )
        return dataclasses.replace(
            now, memorised_in_a_row=self.memorised_in_a_row + 1 if shown else 0
        )
