"""Finds the complete steps of a volume and opens one; never writes.

Complete means: the manifest is there and every file has the size that it states. That holds on
stores without rename too. Directories that begin with a dot are none of a reader's business.
"""

import dataclasses
import errno
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, TypeVar

from lm.plain_file import most_bytes, open_plain, read_bounded
from lm.volume.errors import StepDamaged, StepUnreadable, StepVanished, VolumeError
from lm.volume.manifest import MANIFEST_FILE, Manifest, step_number
from lm.volume.run_names import why_no_run

T = TypeVar("T")
_LOSS = "val_loss"

OpenFile = Callable[[Path], BinaryIO]
"""Opens a file or raises ``OSError``; readers take one, so that storage can be replaced."""

DAMAGE = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.ENXIO, errno.ENODEV),
    None,
}
"""Error numbers that say what is wrong with a step (``ENXIO`` and ``ENODEV`` are sockets' and
devices'); others say that reading it failed."""
WEIGHTS_SUFFIX = ".safetensors"
MOST_BYTES_PER_PARAMETER = 32
"""Of a file of tensors: two moments in float64, and as much again."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A complete step: where it is and what its manifest says."""

    path: Path
    manifest: Manifest

    @property
    def number(self) -> int:
        """The step's number, in the recipe's unit."""
        return self.manifest.step

    @property
    def name(self) -> str:
        """How clients name it: ``run@500``."""
        return f"{self.manifest.run}@{self.manifest.step}"


def list_runs(volume: Path) -> list[str]:
    """Names of the runs in a volume, sorted; empty where there is no volume yet."""
    return sorted(name for name in _directories(volume) if why_no_run(name) is None)


def list_no_runs(volume: Path) -> dict[str, str]:
    """Directories of a volume that are no runs by their names, and why; dots mean to be none."""
    names = [name for name in _directories(volume) if not name.startswith(".")]
    return {name: why for name in sorted(names) if (why := why_no_run(name)) is not None}


def _directories(volume: Path) -> list[str]:
    try:
        return [entry.name for entry in volume.iterdir() if _may_be_directory(entry)]
    except FileNotFoundError:
        return []


def _may_be_directory(path: Path) -> bool:
    """One that cannot be told from outside says why when it is listed."""
    try:
        return path.is_dir()
    except OSError:
        return True


def step_paths(run_dir: Path) -> list[Path]:
    """Directories named as steps, ascending; complete or not."""
    try:
        entries = list(run_dir.iterdir())
    except FileNotFoundError:
        return []
    numbered = [(step_number(entry.name), entry) for entry in entries]
    return [path for number, path in sorted((n, p) for n, p in numbered if n is not None)]


def read_step(path: Path, *, open_file: OpenFile = open_plain) -> Step:
    """Read a step's manifest and compare sizes.

    Raises ``StepVanished`` if there is no such directory, ``StepDamaged`` or ``UnknownFormat``
    if it is not a complete step, ``StepUnreadable`` if it cannot be read just now.
    """
    manifest_path = path / MANIFEST_FILE
    if path.is_symlink():
        raise StepDamaged(f"{path}: a link, not a directory of the volume")
    try:
        with open_file(manifest_path) as file:
            content = read_bounded(file, most_bytes(MANIFEST_FILE), manifest_path)
            manifest = Manifest.from_json(content, str(manifest_path))
    except OSError as error:
        raise unreadable(path, MANIFEST_FILE, error) from error
    _check_place(path, manifest)
    for name, entry in manifest.files.items():
        _check_file(path, name, entry.size)
        if entry.size > _most_bytes(name, manifest):
            raise StepDamaged(f"{path / name}: {entry.size:,} bytes are more than it may have")
    return Step(path, manifest)


def _check_place(path: Path, manifest: Manifest) -> None:
    """Raise ``StepDamaged`` unless the manifest is that of the step that lies here.

    A run may be a link to another one of the volume: what counts is where its steps lie.
    """
    if manifest.step != step_number(path.name):
        raise StepDamaged(f"{path}: the manifest says step {manifest.step}")
    run_dir = path.parent
    if manifest.run != run_dir.name and manifest.run != run_dir.resolve().name:
        raise StepDamaged(f"{path}: the manifest says run {manifest.run[:100]!r}")


def _most_bytes(name: str, manifest: Manifest) -> int:
    """Bytes that a listed file may have: tensors by the model's size, others by their kind."""
    if name.endswith(WEIGHTS_SUFFIX):
        parameters = manifest.details.model_config.num_parameters
        return most_bytes(name) + MOST_BYTES_PER_PARAMETER * parameters
    return most_bytes(name)


def _check_file(path: Path, name: str, size: int) -> None:
    """Raise ``StepDamaged`` unless the file is a plain one inside the step, of this size."""
    file = path / name
    if Path(name).name != name:
        raise StepDamaged(f"{path}: {name!r} is not a name inside the step")
    try:
        status = file.lstat()
    except (OSError, ValueError) as error:
        raise unreadable(path, name, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise StepDamaged(f"{file}: not a plain file of the step")
    if status.st_size != size:
        raise StepDamaged(f"{file}: {status.st_size} bytes, the manifest says {size}")


def unreadable(
    step_path: Path, name: str, error: Exception
) -> StepDamaged | StepUnreadable | StepVanished:
    """What it means that a file cannot be read: its step is gone or broken, or the disk fails."""
    if isinstance(error, FileNotFoundError) and not step_path.is_dir():
        return StepVanished(f"{step_path}: no such step")
    kind = StepDamaged if getattr(error, "errno", None) in DAMAGE else StepUnreadable
    return kind(f"{step_path / name}: {getattr(error, 'strerror', None) or error}")


def list_steps(run_dir: Path) -> list[Step]:
    """Complete steps of a run, ascending; what is damaged or half pruned is left out."""
    steps = []
    for path in step_paths(run_dir):
        try:
            steps.append(read_step(path))
        except VolumeError:
            continue
    return steps


def newest_step(run_dir: Path) -> Step | None:
    """The complete step with the highest number."""
    for path in reversed(step_paths(run_dir)):
        try:
            return read_step(path)
        except VolumeError:
            continue
    return None


def best_step(run_dir: Path) -> Step | None:
    """The complete step with the lowest validation loss, of those that it was measured at."""
    return next(iter(by_loss(list_steps(run_dir))), None)


def by_loss(steps: Iterable[Step]) -> list[Step]:
    """The steps that validation loss was measured at, the lowest first."""
    measured = [step for step in steps if _LOSS in step.manifest.details.metrics]
    return sorted(measured, key=lambda step: step.manifest.details.metrics[_LOSS])


def open_step(run_dir: Path, load: Callable[[Step], T], *, attempts: int = 3) -> T | None:
    """Apply ``load`` to the newest complete step; ``None`` if there is none.

    A step that vanishes while it is opened (the writer pruned it) is retried on what is then the
    newest; after the last attempt ``StepVanished`` is raised.
    """
    for attempt in range(attempts):
        step = newest_step(run_dir)
        if step is None:
            return None
        try:
            return load(step)
        except StepVanished:
            if attempt == attempts - 1:
                raise
    return None
