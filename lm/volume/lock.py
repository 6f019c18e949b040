"""One writer a run: advisory locks that die with their process."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from lm.volume.errors import WriterBusy

LOCK_FILE = ".lock"


class RunLock:
    """Holds ``flock`` on ``<run>/.lock`` and on the run's directory while entered; creates both.

    The directory's lock holds where somebody removes the file: the next writer would lock another
    file of that name. Where a file system cannot lock a directory (NFS, which wants it opened for
    writing), the file's lock holds alone.

    Raises ``WriterBusy`` if another process holds one of them.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._descriptors: list[int] = []

    def __enter__(self) -> Self:
        """Take the locks at once or raise."""
        _make_directory(self._run_dir)
        path = self._run_dir / LOCK_FILE
        try:
            self._take(path, os.O_RDWR | os.O_CREAT)
            while not _is_at(path, self._descriptors[-1]):  # removed between opening and locking
                self._take(path, os.O_RDWR | os.O_CREAT)
            self._take(self._run_dir, os.O_RDONLY | os.O_DIRECTORY)
        except BlockingIOError as error:
            self._release()
            raise WriterBusy(
                f"{self._run_dir}: another trainer is writing to this run; "
                "stop it, or choose another --run"
            ) from error
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release the locks."""
        self._release()

    def _take(self, path: Path, flags: int) -> None:
        """Raises ``BlockingIOError`` while another process has this one."""
        self._descriptors.append(os.open(path, flags, 0o644))
        try:
            fcntl.flock(self._descriptors[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            if not flags & os.O_DIRECTORY:
                raise

    def _release(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether a path still leads to the file that was opened."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _make_directory(path: Path) -> None:
    """Create a directory and its parents, each readable by every user whatever the umask is."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    path.mkdir(exist_ok=True)
    path.chmod(0o755)
