"""Keeps on disk which kernels were measured to be the fastest on a card."""

import contextlib
import json
import tempfile
from pathlib import Path

from lm.config import ModelConfig
from service.engine.gpu.kernels.choices import Choices
from service.engine.gpu.kernels.measure import fingerprint, measure, step_timer
from service.engine.gpu.tensors import DecoderWeights


def measured_choices(
    config: ModelConfig, weights: DecoderWeights, rows: int, directory: Path
) -> Choices:
    """The choices for steps of so many rows on the card that the weights are on.

    Measured once for a card, a shape and the versions of PyTorch and Triton; kept in a file of
    ``directory``. A file that cannot be read is measured anew, one that cannot be written is not
    there the next time.
    """
    path = directory / f"decode-{fingerprint(config, weights, rows)}.json"
    kept = read_choices(path)
    if kept is not None:
        return kept
    choices = measure(config, rows, step_timer(config, weights, rows))
    with contextlib.suppress(OSError):
        write_choices(path, choices)
    return choices


def read_choices(path: Path) -> Choices | None:
    """Choices of a file; ``None`` if it is not there or holds something else."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return Choices.from_dict(json.loads(path.read_text("utf-8")))
    return None


def write_choices(path: Path, choices: Choices) -> None:
    """Visible whole or not at all: several services may start at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(json.dumps(choices.to_dict(), indent=1))
    Path(file.name).replace(path)
