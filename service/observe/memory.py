"""What memory there is, and giving freed memory back to the kernel."""

import contextlib
import ctypes
import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lm.machine import cgroup

M_ARENA_MAX = -8
"""Of mallopt(3)."""
ARENAS = 2
ARENAS_VARIABLE = "MALLOC_ARENA_MAX"

LOOK_S = 1.0
GROWING_BYTES = 4 << 20
"""Between two looks; what grows faster is at work."""
WORTH_BYTES = 24 << 20
"""Less than a tenth of what a service takes that has no model."""


def available_bytes(
    meminfo: Path = Path("/proc/meminfo"),
    left_by_groups: Callable[[], int | None] = cgroup.available_bytes,
) -> int | None:
    """Bytes that can be taken without swapping or being killed; ``None`` where nobody says.

    What the kernel says of the machine, or what its control groups leave if that is less.
    """
    bounds = [_machine_bytes(meminfo), left_by_groups()]
    return min((bound for bound in bounds if bound is not None), default=None)


def have_few_arenas() -> None:
    """Have glibc take memory for all threads from two heaps; before any thread is started.

    By default it makes up to eight a core, each of which keeps what its threads freed.
    ``MALLOC_ARENA_MAX`` in the environment has precedence. ``docs/security.md`` has figures.
    """
    if ARENAS_VARIABLE not in os.environ:
        with contextlib.suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def trim() -> None:
    """Give freed memory back: glibc keeps it for later, and a swap would look like a leak."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # another C library
        return


class Trimmer:
    """Says when it is worth while to give memory back: it has grown, and grows no more."""

    def __init__(self, resident: Callable[[], int | None] | None = None) -> None:
        self._resident = resident or resident_bytes
        self._settled = self._before = self._resident() or 0
        """Bytes after the last time, and at the last look."""

    def is_due(self) -> bool:
        """Look; to be asked every ``LOOK_S``."""
        now = self._resident() or 0
        grows = now > self._before + GROWING_BYTES
        self._before = now
        self._settled = min(self._settled, now)
        return not grows and now > self._settled + WORTH_BYTES

    def on_trimmed(self) -> None:
        """What is still there, is in use."""
        self._settled = self._before = self._resident() or 0


def give_back_from_now_on() -> None:
    """Begin a thread that gives freed memory back, for as long as the process runs."""

    def watch() -> None:
        trimmer = Trimmer()
        while True:
            time.sleep(LOOK_S)
            if trimmer.is_due():
                trim()
                trimmer.on_trimmed()

    threading.Thread(target=watch, name="trim", daemon=True).start()


def resident_bytes(statm: Path = Path("/proc/self/statm")) -> int | None:
    """Memory of this process; ``None`` where nobody says."""
    try:
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return None


def _machine_bytes(meminfo: Path) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
