"""Writes a step so that readers see all of it or nothing, whatever dies in between.

Files go into a hidden sibling directory and are synced one by one; the manifest follows; the
directory is synced and renamed; the parent is synced. The rename is the only visible moment.
"""

import dataclasses
import datetime as dt
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from lm.volume.errors import StepDamaged
from lm.volume.manifest import (
    MANIFEST_FILE,
    FileEntry,
    Manifest,
    StepDetails,
    step_name,
)
from lm.volume.read import Step, read_step
from lm.volume.verify import verify

TMP_PREFIX = ".tmp-"
BAD_PREFIX = ".bad-"
DIRECTORY_MODE = 0o755
FILE_MODE = 0o644

Writer = Callable[[Path], None]
"""Writes one file to the path it is given."""

PHASES = ("begin", "files", "manifest", "synced", "renamed", "done")
"""Moments of a publish, in order; ``on_phase`` is told of each."""


def publish(
    run_dir: Path,
    step: int,
    writers: Mapping[str, Writer],
    details: StepDetails,
    *,
    on_phase: Callable[[str], object] = str,
) -> Step:
    """Write a step of a run and make it visible by one rename.

    The caller holds the run's lock. A step that is there and verifies is returned untouched; one
    that is damaged is moved aside first. ``on_phase`` is told each of ``PHASES``.

    Raises:
        OSError: the volume is full or not writable; nothing visible has changed.
        VolumeError: a step is there that cannot be read now, or has a newer format: it may be
            good, and stays where it is.

    """
    final = run_dir / step_name(step)
    published = _already_published(final)
    if published is not None:
        return published
    on_phase("begin")
    tmp = run_dir / f"{TMP_PREFIX}{step_name(step)}-{os.getpid()}"
    try:
        _fill(tmp, step, writers, details, on_phase)
        tmp.rename(final)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    on_phase("renamed")
    sync(run_dir)
    on_phase("done")
    return read_step(final)


def _already_published(final: Path) -> Step | None:
    """The step that is there if it verifies; what is damaged is moved aside."""
    if not os.path.lexists(final):
        return None
    try:
        step = read_step(final)
        verify(step)
    except StepDamaged:
        _move_aside(final)
        return None
    return step


def _fill(
    tmp: Path,
    step: int,
    writers: Mapping[str, Writer],
    details: StepDetails,
    on_phase: Callable[[str], object],
) -> None:
    """Write and sync every file, the manifest last, then the directory."""
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir()
    tmp.chmod(DIRECTORY_MODE)  # the umask must not keep other users out
    files = {}
    for name, write in writers.items():
        write(tmp / name)
        files[name] = seal(tmp / name)
    on_phase("files")
    manifest = Manifest(
        run=tmp.parent.name,
        step=step,
        created_at=dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
        files=files,
        details=details,
    )
    (tmp / MANIFEST_FILE).write_text(manifest.to_json(), "utf-8")
    seal(tmp / MANIFEST_FILE)
    on_phase("manifest")
    sync(tmp)
    on_phase("synced")


def seal(path: Path) -> FileEntry:
    """Make a written file durable and readable by every user; say what is in it."""
    path.chmod(FILE_MODE)  # safetensors writes 0600
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return FileEntry(size=os.fstat(file.fileno()).st_size, sha256=digest)


def sync(directory: Path) -> None:
    """Make a directory's entries durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_aside(path: Path) -> None:
    """Rename what does not verify to ``.bad-…``, under a name that is free."""
    attempt = 0
    while os.path.lexists(aside := path.with_name(f"{BAD_PREFIX}{path.name}-{attempt}")):
        attempt += 1
    path.rename(aside)


@dataclasses.dataclass(frozen=True)
class TextFile:
    """A ``Writer`` of fixed text."""

    text: str

    def __call__(self, path: Path) -> None:
        """Write the text as UTF-8."""
        path.write_text(self.text, "utf-8")
