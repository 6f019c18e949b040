"""The limits of this process's control groups: memory and cores, of versions 1 and 2.

A process is in a group below others, and the least limit of all of them holds. Inside of a
container without a name space of its own ``/proc/self/cgroup`` has the host's path, of which only
the last part is mounted: whatever part of it is there is asked, and the mount itself.
Formats: cgroups(7), the kernel's ``admin-guide/cgroup-v1`` and ``admin-guide/cgroup-v2``.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
NO_LIMIT_BYTES = 1 << 60
"""Version 1 writes "no limit" as the largest multiple of a page."""


def available_bytes(membership: Path = MEMBERSHIP, root: Path = ROOT) -> int | None:
    """The least that a group's memory limit leaves; ``None`` where there is none.

    Page cache that can be dropped is not counted as used.
    """
    left = [
        _left(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for group in _groups("memory", membership, root)
    ]
    left += [
        _left(group, "memory.max", "memory.current", "inactive_file")
        for group in _groups("", membership, root)
    ]
    return min((one for one in left if one is not None), default=None)


def limit_cores(membership: Path = MEMBERSHIP, root: Path = ROOT) -> float | None:
    """Cores whose time the groups may take; ``None`` where they may take all."""
    quotas = [_old_quota(group) for group in _groups("cpu", membership, root)]
    quotas += [_quota(group) for group in _groups("", membership, root)]
    return min((one for one in quotas if one is not None), default=None)


def _groups(controller: str, membership: Path, root: Path) -> Iterator[Path]:
    """Directories of a controller's group and of those above it; ``""`` is version 2."""
    for mount, path in _memberships(controller, membership, root):
        group = mount / path.lstrip("/")
        while group.is_relative_to(mount):
            if group.is_dir():
                yield group
            if group == mount:
                break
            group = group.parent


def _memberships(controller: str, membership: Path, root: Path) -> Iterator[tuple[Path, str]]:
    """Where a controller is mounted, and the process's path there."""
    lines: list[str] = []
    with contextlib.suppress(OSError, UnicodeDecodeError):
        lines = membership.read_text("utf-8").splitlines()
    for line in lines:
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if ".." in path.split("/"):  # a group outside of this name space
            path = "/"
        if controller in names.split(","):
            for mount in (root / names, root / controller) if controller else (root,):
                if mount.is_dir():
                    yield mount, path
                    break


def _left(group: Path, limit: str, used: str, cache: str) -> int | None:
    """What a group leaves of its limit in bytes."""
    most = _number(group / limit)
    if most is None or most >= NO_LIMIT_BYTES:
        return None
    taken = _number(group / used)
    if taken is None:
        return None
    try:
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        droppable = int(stat[cache])
    except (OSError, KeyError, ValueError):
        droppable = 0
    return max(0, most - taken + droppable)


def _quota(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number: no limit
        return None


def _old_quota(group: Path) -> float | None:
    quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    return quota / period if quota is not None and period and quota > 0 else None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
