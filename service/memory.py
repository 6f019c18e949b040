"""What memory there is, and giving freed memory back to the kernel."""

import ctypes
from collections.abc import Callable
from pathlib import Path

from lm import cgroup


def available_bytes(
    meminfo: Path = Path("/proc/meminfo"),
    left_by_groups: Callable[[], int | None] = cgroup.available_bytes,
) -> int | None:
    """Bytes that can be taken without swapping or being killed; ``None`` where nobody says.

    What the kernel says of the machine, or what its control groups leave if that is less.
    """
    bounds = [_machine_bytes(meminfo), left_by_groups()]
    return min((bound for bound in bounds if bound is not None), default=None)


def trim() -> None:
    """Give freed memory back: glibc keeps it for later, and a swap would look like a leak."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # another C library
        return


def _machine_bytes(meminfo: Path) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
