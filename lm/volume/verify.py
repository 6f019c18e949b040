"""Compares a step's bytes with its manifest."""

from collections.abc import Callable
from pathlib import Path

from lm.plain_file import open_plain, sha256_of
from lm.volume.errors import StepDamaged
from lm.volume.manifest import TRAINING_STATE_PREFIX
from lm.volume.read import OpenFile, Step, read_step, step_paths, unreadable


def verify(step: Step, *, hashes: bool = True, open_file: OpenFile = open_plain) -> None:
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
            with open_file(step.path / name) as file:
                digest = sha256_of(file, entry.size)
        except OSError as error:
            is_state = name.startswith(TRAINING_STATE_PREFIX)
            if is_state and isinstance(error, FileNotFoundError) and step.path.is_dir():
                continue  # given up by the writer since the manifest was read
            raise unreadable(step.path, name, error) from error
        if digest != entry.sha256:
            raise StepDamaged(f"{step.path / name}: SHA-256 differs from the manifest")


def newest_sound_step(
    run_dir: Path, *, on_damage: Callable[[StepDamaged], object] = str
) -> Step | None:
    """The newest step that verifies; ``None`` in a run without any.

    ``on_damage`` is told of every newer one that does not. Raises ``StepDamaged`` if none does:
    a run that has lost all of its steps must not begin anew over them.
    """
    damage = None
    for path in reversed(step_paths(run_dir)):
        try:
            step = read_step(path)
            verify(step)
        except StepDamaged as error:
            damage = error
            on_damage(error)
        else:
            return step
    if damage is not None:
        raise StepDamaged(f"no step of {run_dir} is sound ({damage}); choose another --run")
    return None
