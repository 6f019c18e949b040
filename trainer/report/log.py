"""Says every event in a line of the log, and moves the progress bar: what people read."""

import logging
import math

from trainer.report.events import (
    Compiling,
    Evaluated,
    Event,
    Note,
    Published,
    Sampled,
    Skipped,
    Snapshotted,
    Trained,
)
from trainer.report.progress import LOGGER, ON_BAR, Bar


class Log:
    """Hears a run and tells it in English."""

    def __init__(self, bar: Bar, *, total_steps: int) -> None:
        self._bar = bar
        self._total_steps = total_steps
        self._log = logging.getLogger(LOGGER)

    def hear(self, event: Event) -> None:
        """Write the event's line."""
        match event:
            case Note(text, is_warning):
                self._log.log(logging.WARNING if is_warning else logging.INFO, "%s", text)
            case Compiling(step=step):
                self._bar.update(step, "compiling")
                self._log.info("step %d · compiling", step, extra=ON_BAR)
            case Trained():
                self._trained(event)
            case Skipped():
                self._log.warning(
                    "step %d skipped: loss or gradient not finite; the weights are untouched "
                    "(%d in a row, %d in all)",
                    event.step,
                    event.in_a_row,
                    event.skipped_steps,
                )
            case Evaluated():
                self._evaluated(event)
            case Sampled():
                text = printable(event.prompt + event.text)
                self._log.info("step %d · sample:\n%s\n", event.step, text)
            case Snapshotted(step=step, stall_s=stall_s):
                self._log.info(
                    "step %d · checkpoint taken, training stood still %.3f s", step, stall_s
                )
            case Published():
                self._published(event)

    def _trained(self, event: Trained) -> None:
        memory = f"rss {_size(event.resident_bytes)}"
        if event.gpu_bytes is not None:
            memory = f"gpu {_size(event.gpu_bytes)}"
        figures = (
            f"loss {event.loss:.3f} avg {event.loss_average:.3f} lr {event.learning_rate:.1e} "
            f"{event.tokens_per_s:,.0f} tok/s {memory}"
        )
        share = "" if event.share_of_peak is None else f"{event.share_of_peak:.0%} of peak"
        self._bar.update(event.step, figures, share)
        eta = _duration(seconds_left(event.step, self._total_steps, event.train_seconds))
        self._log.info(
            "step %d/%d · %s · eta %s",
            event.step,
            self._total_steps,
            " · ".join(filter(None, (figures, share))),
            eta,
            extra=ON_BAR,
        )

    def _evaluated(self, event: Evaluated) -> None:
        self._log.info(
            "step %d · held out: %.3f bits/byte, loss %.3f (gap %+.3f) · %s tokens in %.1f s",
            event.step,
            event.bits_per_byte,
            event.validation_loss,
            event.gap or 0.0,
            f"{event.validation_tokens:,}",
            event.seconds,
        )
        if event.memorising:
            self._log.warning(
                "step %d · memorising: held-out loss was lowest at step %s (%.3f) and rises, while "
                "training loss falls; more text or fewer steps would help",
                event.step,
                event.best_step,
                event.best_validation_loss,
            )

    def _published(self, event: Published) -> None:
        if event.error is None:
            self._log.info("step %d · checkpoint visible after %.2f s", event.step, event.write_s)
        else:
            self._log.error(
                "step %d could not be saved: %s; training goes on, older steps are untouched",
                event.step,
                event.error,
            )


def seconds_left(step: int, total: int, train_seconds: float) -> float:
    """Training time to go at the run's mean speed; infinite before the first step."""
    return (total - step) * train_seconds / step if step else math.inf


def printable(text: str) -> str:
    """A text without control characters, which an untrained model would send to the terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
        if minutes >= 60
        else f"{minutes}:{rest:02d}"
    )
