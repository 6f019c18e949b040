"""What a program sees to before anything else: standard streams that are open, and a home.

Supervisors and containers start programs with less than a shell does. Libraries do not expect it:
libuv aborts the process as it closes a socket that was given the number of a closed standard input,
and caches of compilers ask for the user's name, which an arbitrary user id has not.
"""

import contextlib
import os
import stat
import sys
import tempfile
from pathlib import Path

STREAMS = ("stdin", "stdout", "stderr")


def prepare() -> None:
    """Open closed standard streams, and give a user without a home one; call it first of all."""
    open_standard_streams()
    settle_home()


def open_standard_streams() -> None:
    """Lead each of the descriptors 0 to 2 that is closed to ``/dev/null``."""
    for number, name in enumerate(STREAMS):
        with contextlib.suppress(OSError):
            os.fstat(number)
            continue
        opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
        assert opened == number, "nobody else opens files yet"
        os.set_inheritable(opened, True)  # noqa: FBT003  a standard stream of children, too
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def settle_home() -> None:
    """Set ``HOME`` and ``USER`` where neither they nor an entry in passwd say anything.

    The home is then a directory of the user's own under the temporary one, if that can be had.
    """
    number = os.getuid()
    if not _has_name():
        os.environ["USER"] = str(number)
    with contextlib.suppress(RuntimeError):  # raised without an entry
        if Path.home().is_absolute():
            return
    with contextlib.suppress(OSError):
        directory = Path(tempfile.gettempdir()) / f"nestling-{number}"
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
        is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == number
        if is_own and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            os.environ["HOME"] = str(directory)


def _has_name() -> bool:
    import getpass

    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # OSError from Python 3.13 on
        return False
    return True
