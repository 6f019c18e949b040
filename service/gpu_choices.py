"""Keeps on disk which kernels were measured to be the fastest on a card."""

import contextlib
import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lm.config import ModelConfig
from service.engine.gpu.buffers.tensors import DecoderWeights
from service.engine.gpu.fused import Choose

if TYPE_CHECKING:  # importing it needs Triton
    from service.engine.gpu.kernels.choices import Choices

MEASURED_ROWS = (1, 2, 8, 16, 32, 64)
"""Steps of other sizes take the choices of the next larger one; beyond, cuBLAS's products are the
fastest (bench/results/gpu_h100_2026-11-27.md)."""

logger = logging.getLogger(__name__)


def choices_on_disk(directory: Path | None = None) -> Choose:
    """Chooses by measurements that are kept in a directory, by default the user's cache."""
    kept = usual_directory() if directory is None else directory

    def choose(config: ModelConfig, weights: DecoderWeights, rows: int) -> "Choices":
        from service.engine.gpu.kernels.choices import default_choices

        measured = next((size for size in MEASURED_ROWS if size >= rows), None)
        if measured is None:
            return default_choices(config, rows)
        return measured_choices(config, weights, measured, kept)

    return choose


def usual_directory() -> Path | None:
    """The user's cache (``XDG_CACHE_HOME`` moves it); ``None`` for a user without a home."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # neither HOME nor an entry of the user's in passwd
        return None
    return Path(base) / "nestling" / "gpu"


def measured_choices(
    config: ModelConfig, weights: DecoderWeights, rows: int, directory: Path | None
) -> "Choices":
    """The choices for steps of so many rows on the card that the weights are on.

    Measured once for a card, a shape and the versions of PyTorch and Triton; kept in a file of
    ``directory``, if there is one. A file that cannot be read is measured anew, one that cannot be
    written is not there the next time.
    """
    from service.engine.gpu.kernels.measure import fingerprint, measure, step_timer

    if directory is None:
        return measure(config, rows, step_timer(config, weights, rows))
    path = directory / f"decode-{fingerprint(config, weights, rows)}.json"
    kept = read_choices(path)
    if kept is not None:
        return kept
    began = time.perf_counter()
    choices = measure(config, rows, step_timer(config, weights, rows))
    logger.info(
        "measured which kernels are the fastest for %d rows in %.1f s; kept in %s",
        *(rows, time.perf_counter() - began, path),
    )
    with contextlib.suppress(OSError):
        write_choices(path, choices)
    return choices


def read_choices(path: Path) -> "Choices | None":
    """Choices of a file; ``None`` if it is not there or holds something else."""
    from service.engine.gpu.kernels.choices import Choices

    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return Choices.from_dict(json.loads(path.read_text("utf-8")))
    return None


def write_choices(path: Path, choices: "Choices") -> None:
    """Visible whole or not at all: several services may start at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(json.dumps(choices.to_dict(), indent=1))
    Path(file.name).replace(path)
