"""Keeps on disk which kernels were measured to be the fastest on a card."""

import contextlib
import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lm.model.config import ModelConfig
from service.engine.gpu.fused import Choose
from service.engine.gpu.tensors import DecoderWeights

if TYPE_CHECKING:  # importing it needs Triton
    from service.engine.gpu.kernels.choices import Choices

MEASURED_ROWS = (1, 2, 8, 16, 32, 64)
"""Steps of other sizes take the choices of the next larger one; beyond, cuBLAS's products are the
fastest (bench/results/gpu_h100_2026-11-27.md)."""

logger = logging.getLogger(__name__)


def choices_on_disk(directory: Path | None = None) -> Choose:
    """Chooses by measurements that are kept in a directory, by default the user's cache.

    Where they cannot be kept there, each is still made once in a process.
    """
    kept = usual_directory() if directory is None else directory
    known: dict[str, Choices] = {}

    def choose(config: ModelConfig, weights: DecoderWeights, rows: int) -> "Choices":
        from service.engine.gpu.kernels.choices import default_choices
        from service.engine.gpu.kernels.measure import fingerprint

        measured = next((size for size in MEASURED_ROWS if size >= rows), None)
        if measured is None:
            return default_choices(config, rows)
        key = fingerprint(config, weights, measured)
        if key not in known:
            path = None if kept is None else kept / f"decode-{key}.json"
            known[key] = measured_choices(config, weights, measured, path)
        return known[key]

    return choose


def usual_directory() -> Path | None:
    """The user's cache (``XDG_CACHE_HOME`` moves it); ``None`` for a user without a home."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # neither HOME nor an entry of the user's in passwd
        return None
    return Path(base) / "nestling" / "gpu"


def measured_choices(
    config: ModelConfig, weights: DecoderWeights, rows: int, path: Path | None
) -> "Choices":
    """The choices for steps of so many rows on the card that the weights are on.

    Read from a file, if there is one that can be read; else measured, and kept there if it can be
    written.
    """
    from service.engine.gpu.kernels.measure import measure, step_timer

    kept = None if path is None else read_choices(path)
    if kept is not None:
        return kept
    began = time.perf_counter()
    choices = measure(config, rows, step_timer(config, weights, rows))
    seconds = time.perf_counter() - began
    logger.info("measured which kernels are the fastest for %d rows in %.1f s", rows, seconds)
    if path is not None:
        try:
            write_choices(path, choices)
        except OSError as error:
            logger.warning("the kernels are measured again at the next start: %s", error)
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
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        whole = Path(scratch) / path.name
        whole.write_text(json.dumps(choices.to_dict(), indent=1), "utf-8")
        whole.replace(path)
