"""Tells what happens in a run: to the journal for programs, to the log and the bar for people."""

import logging
import math

from trainer.checkpoint import Written
from trainer.config import PhaseConfig
from trainer.evaluate import Evaluation
from trainer.journal import Journal
from trainer.optimizer import Rates
from trainer.progress import LOGGER, ON_BAR, Bar
from trainer.samples import Sample
from trainer.state import Counters


class Report:
    """One run's voice; steps are in the recipe's unit."""

    def __init__(self, journal: Journal, bar: Bar, *, total_steps: int, resumed: Counters) -> None:
        self._journal = journal
        self._bar = bar
        self._total_steps = total_steps
        self._last = resumed
        """Counters at the line before, for the speed since then."""
        self._log = logging.getLogger(LOGGER)

    def note(self, text: str) -> None:
        """Say something once."""
        self._log.info(text)

    def warn(self, text: str) -> None:
        """Say something that may surprise."""
        self._log.warning(text)

    def phase(self, step: int, phase: PhaseConfig, peak: Rates) -> None:
        """A phase begins."""
        self._log.info(
            "step %d · phase %s: %s, lr %g, weight decay %g",
            step,
            phase.name,
            phase.schedule.name,
            peak.lr,
            peak.weight_decay,
        )

    def trained(
        self, step: int, counters: Counters, *, loss: float, gradient_norm: float, rates: Rates
    ) -> None:
        """An optimizer step that is due to be logged."""
        tokens = counters.tokens_seen - self._last.tokens_seen
        seconds = counters.train_seconds - self._last.train_seconds
        self._last = counters
        speed = tokens / seconds if seconds > 0 else 0.0
        average = loss if counters.loss_average is None else counters.loss_average
        self._journal.train(
            {
                "step": step,
                "loss": loss,
                "loss_average": average,
                "learning_rate": rates.lr,
                "gradient_norm": gradient_norm,
                "tokens_seen": counters.tokens_seen,
                "tokens_per_s": round(speed, 1),
                "train_seconds": round(counters.train_seconds, 3),
                "skipped_steps": counters.skipped_steps,
            }
        )
        figures = f"loss {loss:.3f} avg {average:.3f} lr {rates.lr:.1e} {speed:,.0f} tok/s"
        self._bar.update(step, figures)
        eta = _duration(seconds_left(step, self._total_steps, counters.train_seconds))
        self._log.info(
            "step %d/%d · %s · eta %s", step, self._total_steps, figures, eta, extra=ON_BAR
        )

    def skipped(self, step: int, counters: Counters) -> None:
        """An optimizer step whose loss or gradient was not finite."""
        self._log.warning(
            "step %d skipped: loss or gradient not finite; the weights are untouched "
            "(%d in a row, %d in all)",
            step,
            counters.skipped_in_a_row,
            counters.skipped_steps,
        )

    def evaluated(
        self, step: int, counters: Counters, evaluation: Evaluation, seconds: float
    ) -> None:
        """An evaluation."""
        gap = None if counters.loss_average is None else evaluation.loss - counters.loss_average
        self._journal.evaluation(
            {
                "step": step,
                "validation_loss": evaluation.loss,
                "bits_per_byte": evaluation.bits_per_byte,
                "gap": gap,
                "validation_tokens": evaluation.tokens,
                "tokens_seen": counters.tokens_seen,
                "train_seconds": round(counters.train_seconds, 3),
                "seconds": round(seconds, 3),
            }
        )
        self._log.info(
            "step %d · held out: %.3f bits/byte, loss %.3f (gap %+.3f) · %s tokens in %.1f s",
            step,
            evaluation.bits_per_byte,
            evaluation.loss,
            gap or 0.0,
            f"{evaluation.tokens:,}",
            seconds,
        )

    def sampled(self, step: int, sample: Sample) -> None:
        """A sampled text."""
        self._journal.sample({"step": step, "prompt": sample.prompt, "text": sample.text})
        self._log.info("step %d · sample:\n%s\n", step, printable(sample.prompt + sample.text))

    def saving(self, step: int, stall_s: float) -> None:
        """A snapshot was taken; the loop stood still for so long."""
        self._log.info("step %d · checkpoint taken, training stood still %.3f s", step, stall_s)

    def written(self, written: Written) -> None:
        """A snapshot became a step, or could not."""
        if written.error is None:
            self._log.info(
                "step %d · checkpoint visible after %.2f s", written.step, written.seconds
            )
        else:
            self._log.error(
                "step %d could not be saved: %s; training goes on, older steps are untouched",
                written.step,
                written.error,
            )


def seconds_left(step: int, total: int, train_seconds: float) -> float:
    """Training time to go at the run's mean speed; infinite before the first step."""
    return (total - step) * train_seconds / step if step else math.inf


def printable(text: str) -> str:
    """A text without control characters, which an untrained model would send to the terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
        if minutes >= 60
        else f"{minutes}:{rest:02d}"
    )
