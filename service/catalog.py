"""What the volume holds, as one look at it: runs, their steps, and what is not whole.

Looks are frequent, so a manifest is parsed again only when its file has changed. Sizes of other
files are compared when the manifest is, and again, byte for byte, when a step is loaded.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from lm.volume import (
    MANIFEST_FILE,
    OpenFile,
    Step,
    StepVanished,
    VolumeError,
    list_runs,
    newest_step,
    open_plain,
    step_name,
)
from lm.volume.manifest import step_number
from lm.volume.read import read_step, step_paths
from service.engine.served import Checkpoint

Stamp = tuple[int, int, int]
"""Inode, size and modification time of a file: what changes when it is written."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """One look at one run."""

    steps: tuple[Step, ...] = ()
    """Complete ones, ascending."""
    broken: Mapping[int, VolumeError] = dataclasses.field(default_factory=dict)
    """Steps with a manifest that are not whole, and why."""
    unfinished: Mapping[int, Path] = dataclasses.field(default_factory=dict)
    """Steps without a manifest: still being copied, on a store without rename."""

    @property
    def numbers(self) -> set[int]:
        """Every step that has a directory."""
        return {step.number for step in self.steps} | self.broken.keys() | self.unfinished.keys()


class Catalog:
    """Reads a volume; never writes."""

    def __init__(self, volume: Path, open_file: OpenFile = open_plain) -> None:
        self.volume = volume
        self._root = volume.resolve()  # once: errors name it, also while the volume hangs
        self._open_file = open_file
        self._known: dict[Path, tuple[Stamp, Step]] = {}

    def from_inside(self, message: str) -> str:
        """A message with its paths as seen from the volume: where that lies is not for clients."""
        for root in sorted({str(self.volume), str(self._root)}, key=len, reverse=True):
            message = message.replace(f"{root}/", "").replace(root, self.volume.name)
        return message

    def runs(self) -> list[str]:
        """Names of the runs, sorted; a link that leads out of the volume is none."""
        root = self.volume.resolve()
        runs = list_runs(self.volume)
        return [run for run in runs if (self.volume / run).resolve().is_relative_to(root)]

    def newest_run(self) -> str | None:
        """The run whose newest step was written last."""
        newest = [step for run in self.runs() if (step := newest_step(self.volume / run))]
        last = max(newest, key=lambda step: step.manifest.created_timestamp, default=None)
        return None if last is None else last.manifest.run

    def survey(self, run: str) -> Survey:
        """Look at a run; raises ``OSError`` if its directory cannot be listed."""
        steps: list[Step] = []
        broken: dict[int, VolumeError] = {}
        unfinished: dict[int, Path] = {}
        for path in step_paths(self.volume / run):
            number = step_number(path.name)
            assert number is not None, "step_paths names steps alone"
            try:
                steps.append(self._step(path))
            except StepVanished:
                continue
            except VolumeError as error:
                if _stamp(path / MANIFEST_FILE) is None and not path.is_symlink():
                    unfinished[number] = path
                else:
                    broken[number] = error
        here, found = self.volume / run, {step.path for step in steps}
        self._known = {
            path: known
            for path, known in self._known.items()
            if path.parent != here or path in found
        }
        return Survey(steps=tuple(steps), broken=broken, unfinished=unfinished)

    def problem(self, run: str | None) -> str | None:
        """Why a run cannot be looked at just now, if so."""
        try:
            _names(self.volume if run is None else self.volume / run)
        except OSError as error:
            return f"{run or self.volume.name}: {error.strerror or error}"
        return None

    def holds(self, checkpoint: Checkpoint) -> bool:
        """Whether these very weights can be loaded again."""
        try:
            step = self._step(self.volume / checkpoint.run / step_name(checkpoint.step))
        except (VolumeError, OSError):
            return False
        return step.manifest.fingerprint == checkpoint.fingerprint

    def _step(self, path: Path) -> Step:
        """The step in a directory, parsed anew only if its manifest's file has changed."""
        stamp = _stamp(path / MANIFEST_FILE)
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        step = read_step(path, open_file=self._open_file)
        if stamp is not None:
            self._known[path] = (stamp, step)
        return step


def checkpoint_of(step: Step) -> Checkpoint:
    """Which weights a step holds."""
    manifest = step.manifest
    return Checkpoint(
        run=manifest.run,
        step=manifest.step,
        fingerprint=manifest.fingerprint,
        created_at=manifest.created_timestamp,
    )


def identity(step: Step) -> tuple[object, ...]:
    """Fingerprint, and size and time of every file: what "changed" means for a refused step."""
    marks = ((name, _size_and_time(step.path / name)) for name in sorted(step.manifest.files))
    return (step.manifest.fingerprint, *marks)


def contents(path: Path) -> tuple[object, ...]:
    """The same for a directory that is no complete step."""
    try:
        names = _names(path)
    except OSError:
        return ()
    return tuple((name, _size_and_time(path / name)) for name in names)


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def _size_and_time(path: Path) -> tuple[int, int] | None:
    """No inode: a volume that is mounted again has others for the same files."""
    stamp = _stamp(path)
    return None if stamp is None else stamp[1:]


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.lstat()
    except (OSError, ValueError):  # a name with a zero byte is no path
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns)
