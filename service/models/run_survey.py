"""One look at a run of a volume: its steps, and what is not whole.

Looks are frequent and runs may have thousands of steps, so a look builds on the one before. The
directory is listed each time, for stores whose directories have no times. Of the newest steps, and
in turn of the others, manifests are compared by inode, size and time, and read again where one has
changed; sizes of other files are compared when the manifest is read, and byte for byte when a step
is loaded.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path

from lm.volume import MANIFEST_FILE, OpenFile, Step, StepVanished, VolumeError
from lm.volume.manifest import step_number
from lm.volume.read import read_step

NEWEST = 64
"""Steps that each look compares with what is known of them."""
LOOKS_FOR_ALL = 20
"""Looks after which the others were compared, too: ten seconds as ``poll_interval_s`` is set."""

Stamp = tuple[int, int, int]
"""Inode, size and modification time of a file: what changes when it is written."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """What a run holds."""

    steps: tuple[Step, ...] = ()
    """Complete ones, ascending."""
    broken: Mapping[int, VolumeError] = dataclasses.field(default_factory=dict)
    """Steps with a manifest that are not whole, and why."""
    unfinished: Mapping[int, Path] = dataclasses.field(default_factory=dict)
    """Steps without a manifest: still being copied, on a store without rename."""

    @functools.cached_property
    def numbers(self) -> frozenset[int]:
        """Every step that has a directory."""
        whole = (step.number for step in self.steps)
        return frozenset({*whole, *self.broken, *self.unfinished})

    @functools.cached_property
    def fingerprints(self) -> frozenset[str]:
        """Of the complete steps."""
        return frozenset(step.manifest.fingerprint for step in self.steps)

    @functools.cached_property
    def by_number(self) -> Mapping[int, Step]:
        """The complete steps."""
        return {step.number: step for step in self.steps}


@dataclasses.dataclass(frozen=True)
class Seen:
    """What was in one step's directory."""

    stamp: Stamp | None
    """Of the manifest; ``None`` where there is none."""
    what: Step | VolumeError | Path
    """The step, why it is none, or the directory of one that has no manifest yet."""

    def is_as(self, other: "Seen | None") -> bool:
        """Whether nothing is to be said anew: errors differ by what they say."""
        if other is None or self.stamp != other.stamp:
            return False
        return self.what is other.what or (
            not isinstance(self.what, Step) and str(self.what) == str(other.what)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """A survey, and what the next look can build on."""

    survey: Survey = Survey()
    names: list[str] = dataclasses.field(default_factory=list)
    """In the directory, as the system lists them."""
    paths: Mapping[int, Path] = dataclasses.field(default_factory=dict)
    """Directories named as steps, ascending."""
    seen: Mapping[int, Seen] = dataclasses.field(default_factory=dict)
    turn: int = 0


def look(run_dir: Path, before: Look, open_file: OpenFile) -> Look:
    """Look at a run again; raises ``OSError`` if its directory cannot be listed."""
    names = names_in(run_dir)
    paths = before.paths if names == before.names else _paths(run_dir, names)
    due = _due(list(paths), before.turn)
    seen: dict[int, Seen] = {}
    is_changed = paths is not before.paths
    for number, path in paths.items():
        known = before.seen.get(number)
        if known is None or number in due:
            found = see(path, known, open_file)
            if found is None:
                is_changed = True
                continue
            if not found.is_as(known):
                known, is_changed = found, True
        assert known is not None, "what is not known is due"
        seen[number] = known
    return Look(
        survey=_survey(seen) if is_changed else before.survey,
        names=names,
        paths=paths,
        seen=seen,
        turn=before.turn + 1,
    )


def see(path: Path, known: Seen | None, open_file: OpenFile) -> Seen | None:
    """What is in a step's directory, read anew only if its manifest's file has changed.

    ``None`` is nothing: it was pruned just now.
    """
    stamp = stamp_of(os.path.join(path, MANIFEST_FILE))  # noqa: PTH118 - thousands a look
    if known is not None and known.stamp == stamp and isinstance(known.what, Step):
        return known
    try:
        return Seen(stamp, read_step(path, open_file=open_file))
    except StepVanished:
        return None
    except VolumeError as error:
        is_unfinished = stamp is None and not path.is_symlink()
        return Seen(stamp, path if is_unfinished else error)


def names_in(directory: Path) -> list[str]:
    """Names in a directory, empty where there is none."""
    try:
        return os.listdir(directory)  # noqa: PTH208 - no object for each of thousands
    except FileNotFoundError:
        return []


def stamp_of(path: Path | str) -> Stamp | None:
    """A file's stamp, ``None`` if there is none."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):  # a name with a zero byte is no path
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def _paths(run_dir: Path, names: list[str]) -> dict[int, Path]:
    numbered = ((step_number(name), name) for name in names)
    return {n: run_dir / name for n, name in sorted((n, x) for n, x in numbered if n is not None)}


def _due(numbers: list[int], turn: int) -> set[int]:
    """Steps to compare in this look."""
    newest, others = numbers[-NEWEST:], numbers[:-NEWEST]
    share = -(-len(others) // LOOKS_FOR_ALL)
    begin = turn % LOOKS_FOR_ALL * share
    return {*newest, *others[begin : begin + share]}


def _survey(seen: Mapping[int, Seen]) -> Survey:
    found = {number: one.what for number, one in seen.items()}
    return Survey(
        steps=tuple(what for what in found.values() if isinstance(what, Step)),
        broken={n: what for n, what in found.items() if isinstance(what, VolumeError)},
        unfinished={n: what for n, what in found.items() if isinstance(what, Path)},
    )
