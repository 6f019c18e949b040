"""Compares a step's bytes with its manifest."""

import hashlib

from lm.volume.errors import StepDamaged
from lm.volume.manifest import TRAINING_STATE_PREFIX
from lm.volume.read import Step, read_step, unreadable


def verify(step: Step, *, hashes: bool = True) -> None:
    """Raise ``StepDamaged`` (or ``StepVanished``) unless the step is what its manifest says.

    Sizes are always compared; ``hashes`` adds a SHA-256 over every file. A step that is reduced
    to a milestone meanwhile is as good as before.
    """
    manifest = read_step(step.path).manifest
    if manifest.without_training_state() != step.manifest.without_training_state():
        raise StepDamaged(f"{step.path}: the manifest changed since it was read")
    if not hashes:
        return
    for name, entry in manifest.files.items():
        try:
            with (step.path / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            is_state = name.startswith(TRAINING_STATE_PREFIX)
            if is_state and isinstance(error, FileNotFoundError) and step.path.is_dir():
                continue  # given up by the writer since the manifest was read
            raise unreadable(step.path, name, error) from error
        if digest != entry.sha256:
            raise StepDamaged(f"{step.path / name}: SHA-256 differs from the manifest")
