"""How many cores this process may use."""

import math
import os

from lm.machine import cgroup


def usable_cores() -> int:
    """Cores by affinity (``taskset``, a cpuset) and a control group's quota; at least one.

    Of a quota of one and a half cores two threads make use, of one of four cores on a machine with
    sixty-four more than four only wait: the kernel stops all of them for the rest of each period.
    """
    limit = cgroup.limit_cores()
    most = allowed_cores()
    return most if limit is None else max(1, min(most, math.ceil(limit)))


def allowed_cores() -> int:
    """Cores by affinity alone, where the system has it, else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
