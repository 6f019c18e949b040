"""A step's weights, hashed while they are read."""

import hashlib
from collections.abc import Iterator

import torch

from lm.safetensors_file import Piece, read_weights
from lm.volume.content import WEIGHTS_FILE
from lm.volume.errors import StepDamaged
from lm.volume.read import OpenFile, Step, unreadable


def step_weights(
    step: Step, *, dtype: torch.dtype, check_hash: bool, open_file: OpenFile
) -> Iterator[Piece]:
    """A step's weights in a dtype; they are those of the manifest once all have been taken.

    Raises what ``lm.volume.read_file`` raises, also after the last piece.
    """
    path, entry = step.path / WEIGHTS_FILE, step.manifest.files.get(WEIGHTS_FILE)
    if entry is None:
        raise StepDamaged(f"{path}: not in the manifest")
    digest = hashlib.sha256()
    try:
        with open_file(path) as file:
            yield from read_weights(
                file, entry.size, dtype=dtype, on_read=digest.update if check_hash else None
            )
    except OSError as error:
        raise unreadable(step.path, WEIGHTS_FILE, error) from error
    except ValueError as error:
        raise StepDamaged(f"{path}: {error}") from error
    if check_hash and digest.hexdigest() != entry.sha256:
        raise StepDamaged(f"{path}: SHA-256 differs from the manifest")
