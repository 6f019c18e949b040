"""Curves and samples for TensorBoard, an optional extra: ``tensorboard --logdir VOLUME``."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.report.events import Began, Evaluated, Event, Published, Sampled, Trained
from trainer.report.progress import LOGGER

DIRECTORY = "tensorboard"
"""In the run's own."""
TRAIN_SCALARS = (
    "loss", "loss_average", "learning_rate", "gradient_norm", "tokens_per_s", "share_of_peak",
    "resident_bytes",
)  # fmt: skip
EVALUATION_SCALARS = ("validation_loss", "bits_per_byte", "gap")


class TensorBoard:
    """Hears a run and writes event files; they are on disk whenever a checkpoint is."""

    def __init__(self, run_dir: Path) -> None:
        """Raises ``ValueError`` if TensorBoard is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            message = "TensorBoard is not installed: pip install 'nestling[tensorboard]'"
            raise ValueError(message) from error
        self._make_writer = SummaryWriter
        self._directory = run_dir / DIRECTORY
        self._writer: Any = None

    def hear(self, event: Event) -> None:
        """Write what can be drawn; the run goes on without where the disk is full."""
        try:
            self._write(event)
        except OSError as error:
            self._writer = None
            logging.getLogger(LOGGER).error("TensorBoard's curves end here: %s", error)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()

    def _write(self, event: Event) -> None:
        if isinstance(event, Began):
            # What a killed run wrote past its checkpoint is written again: it is hidden.
            self._writer = self._make_writer(str(self._directory), purge_step=event.step + 1)
        elif self._writer is None:
            return
        elif isinstance(event, Trained):
            self._scalars("train", event, TRAIN_SCALARS)
        elif isinstance(event, Evaluated):
            self._scalars("evaluation", event, EVALUATION_SCALARS)
        elif isinstance(event, Sampled):
            self._writer.add_text(f"sample/{event.prompt}", event.text, event.step)
        elif isinstance(event, Published):
            self._writer.flush()

    def _scalars(self, group: str, event: Trained | Evaluated, names: Sequence[str]) -> None:
        for name in names:
            if (value := getattr(event, name)) is not None:
                self._writer.add_scalar(f"{group}/{name}", value, event.step)
