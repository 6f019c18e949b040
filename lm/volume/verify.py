"""Compares a step's bytes with its manifest."""

import hashlib

from lm.volume.errors import StepDamaged
from lm.volume.read import Step, read_step


def verify(step: Step, *, hashes: bool = True) -> None:
    """Raise ``StepDamaged`` (or ``StepVanished``) unless the step is what its manifest says.

    Sizes are always compared; ``hashes`` adds a SHA-256 over every file.
    """
    current = read_step(step.path)
    if current.manifest != step.manifest:
        raise StepDamaged(f"{step.path}: the manifest changed since it was read")
    if not hashes:
        return
    for name, entry in step.manifest.files.items():
        with (step.path / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != entry.sha256:
            raise StepDamaged(f"{step.path / name}: SHA-256 differs from the manifest")
