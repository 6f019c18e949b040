"""Takes away from a Python process what macOS does not have, by ``PYTHONPATH``."""

import ctypes
import mmap
import os
import platform
import resource
from pathlib import Path

LINUX_ALONE = (
    *("sched_getaffinity", "sched_setaffinity", "sched_getscheduler", "sched_setscheduler"),
    *("sched_param", "SCHED_IDLE", "SCHED_BATCH", "posix_fadvise", "memfd_create", "pidfd_open"),
)
GLIBC_ALONE = {"malloc_trim", "mallopt"}

for name in LINUX_ALONE:
    if hasattr(os, name):
        delattr(os, name)
if hasattr(mmap, "MADV_HUGEPAGE"):
    del mmap.MADV_HUGEPAGE
platform.machine = lambda: "arm64"
platform.libc_ver = lambda *_, **__: ("", "")

_read_text = Path.read_text
_CDLL = ctypes.CDLL


def read_text(path: Path, *arguments: str | None, **keywords: str | None) -> str:
    if path.parts[:2] in {("/", "proc"), ("/", "sys")}:
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return _read_text(path, *arguments, **keywords)


def setrlimit(*_: object) -> None:
    raise ValueError("current limit exceeds maximum limit")


class CDLL(_CDLL):
    def __getattr__(self, name: str) -> object:
        if name in GLIBC_ALONE:
            raise AttributeError(name)
        return super().__getattr__(name)


Path.read_text = read_text
resource.setrlimit = setrlimit
ctypes.CDLL = CDLL
