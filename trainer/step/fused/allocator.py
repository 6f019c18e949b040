"""Keeps the memory that tensors give back, so that the next ones need not have it cleared anew.

glibc returns large blocks to the kernel at once and asks for them again a moment later: every
training step then pays for millions of page faults, a quarter of its time on a CPU
(``docs/training-speed.md``). What a process holds at most does not change, only when it is
given back.
"""

import contextlib
import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""Parameters of mallopt(3)."""
_GROWTH_BYTES = 64 << 20
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Tell this process's allocator to reuse large blocks; does nothing where it is not glibc."""
    if platform.libc_ver()[0] != "glibc":
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in (
            (_M_MMAP_MAX, 0),
            (_M_TRIM_THRESHOLD, _NEVER),
            (_M_TOP_PAD, _GROWTH_BYTES),
        ):
            mallopt(parameter, value)
