"""What the volume holds: runs, their steps, and where one cannot be read.

Asked by the watcher's thread and by those of routes at once: what is known of a run is replaced
whole, never changed.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from lm.volume import OpenFile, Step, VolumeError, list_runs, newest_step, open_plain, step_name
from lm.volume.read import list_no_runs
from lm.volume.run_names import shown
from service.engine.served_model import Checkpoint
from service.models.run_survey import Look, Survey, look, names_in, see, stamp_of

MAX_LEFT_OUT = 100
"""Runs that are listed with the reason why they are none."""


class Catalog:
    """Reads a volume; never writes."""

    def __init__(self, volume: Path, open_file: OpenFile = open_plain) -> None:
        self.volume = volume
        self._root = volume.resolve()  # once: errors name it, also while the volume hangs
        self._open_file = open_file
        self._looks: dict[str, Look] = {}
        """The last look at each run."""

    def from_inside(self, message: str) -> str:
        """A message with its paths as seen from the volume: where that lies is not for clients."""
        for root in sorted({str(self.volume), str(self._root)}, key=len, reverse=True):
            message = message.replace(f"{root}/", "").replace(root, self.volume.name)
        return message

    def runs(self) -> list[str]:
        """Names of the runs, sorted; a link that leads out of the volume is none."""
        root = self.volume.resolve()
        return [run for run in list_runs(self.volume) if self._is_inside(run, root)]

    def surveys(self) -> Iterator[tuple[str, Survey]]:
        """A look at each run that can be listed; ``left_out`` has the others."""
        for run in self.runs():
            try:
                survey = self.survey(run)
            except OSError:
                continue
            yield run, survey

    def left_out(self) -> dict[str, str]:
        """Directories that are not read as runs, and why; as many as ``MAX_LEFT_OUT``."""
        root, reasons = self.volume.resolve(), list_no_runs(self.volume)
        for run in list_runs(self.volume):
            if not self._is_inside(run, root):
                reasons[run] = "it leads out of the volume"
            elif (problem := self.problem(run)) is not None:
                reasons[run] = problem
        named = {shown(name): self.from_inside(why) for name, why in sorted(reasons.items())}
        return dict(list(named.items())[:MAX_LEFT_OUT])

    def newest_run(self) -> str | None:
        """The run whose newest step was written last; one that cannot be read is passed over."""
        newest = [step for run in self.runs() if (step := self._newest_step(run)) is not None]
        last = max(newest, key=lambda step: step.manifest.created_timestamp, default=None)
        return None if last is None else last.manifest.run

    def survey(self, run: str) -> Survey:
        """Look at a run; raises ``OSError`` if its directory cannot be listed."""
        now = look(self.volume / run, self._looks.get(run, Look()), self._open_file)
        if now.names:
            self._looks[run] = now
        else:
            self._looks.pop(run, None)
        return now.survey

    def problem(self, run: str | None) -> str | None:
        """Why a run cannot be looked at just now, if so."""
        try:
            with os.scandir(self.volume if run is None else self.volume / run) as entries:
                next(entries, None)
        except OSError as error:
            return f"{run or self.volume.name}: {error.strerror or error}"
        return None

    def holds(self, checkpoint: Checkpoint) -> bool:
        """Whether these very weights can be loaded again."""
        path = self.volume / checkpoint.run / step_name(checkpoint.step)
        known = self._looks.get(checkpoint.run, Look()).seen.get(checkpoint.step)
        try:
            seen = see(path, known, self._open_file)
        except OSError:
            return False
        if seen is None or not isinstance(seen.what, Step):
            return False
        return seen.what.manifest.fingerprint == checkpoint.fingerprint

    def _is_inside(self, run: str, root: Path) -> bool:
        try:
            return (self.volume / run).resolve().is_relative_to(root)
        except (OSError, RuntimeError):  # a circle of links
            return False

    def _newest_step(self, run: str) -> Step | None:
        try:
            return newest_step(self.volume / run)
        except (OSError, VolumeError):
            return None


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
        names = sorted(names_in(path))
    except OSError:
        return ()
    return tuple((name, _size_and_time(path / name)) for name in names)


def _size_and_time(path: Path) -> tuple[int, int] | None:
    """No inode: a volume that is mounted again has others for the same files."""
    stamp = stamp_of(path)
    return None if stamp is None else stamp[1:]
