"""What memory there is, and giving freed memory back to the kernel."""

import ctypes
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = CGROUP) -> int | None:
    """Bytes that can be taken without swapping or being killed; ``None`` where nobody says.

    What the kernel says of the machine, or of this container's limit (cgroup v2) if that is less.
    """
    bounds = [_machine_bytes(meminfo), _container_bytes(cgroup)]
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


def _container_bytes(cgroup: Path) -> int | None:
    """The limit less what is used, page cache that can be dropped not counted."""
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(stat["inactive_file"]))
    except (OSError, KeyError, ValueError):  # "max" is no number: no limit
        return None
