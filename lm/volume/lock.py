"""One writer a run: an advisory lock that dies with its process."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from lm.volume.errors import WriterBusy

LOCK_FILE = ".lock"


class RunLock:
    """Holds ``flock`` on ``<run>/.lock`` while entered; creates the run's directory.

    Raises ``WriterBusy`` if another process holds it.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Take the lock at once or raise."""
        _make_directory(self._run_dir)
        descriptor = os.open(self._run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise WriterBusy(
                f"{self._run_dir}: another trainer is writing to this run; "
                "stop it, or choose another --run"
            ) from error
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _make_directory(path: Path) -> None:
    """Create a directory and its parents, each readable by every user whatever the umask is."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    path.mkdir(exist_ok=True)
    path.chmod(0o755)
