"""How many cores this process may use."""

import os


def usable_cores() -> int:
    """Cores by affinity (``taskset``, a cpuset) where the system has it, else all; at least one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
