"""Finds the native kernels for this processor, compiled once for each state of their sources.

``python -m service.kernels`` does so ahead of time, as ``make install`` has it.
The result lies in the user's cache directory under a name made of the sources, the flags and the
compiler, so that an edit or another machine never meets a stale one. A package may bring its own.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from service.engine.native.library import Library

SOURCES = Path(__file__).parent / "engine" / "native"
FLAGS = {
    "avx512": (
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mavx512bf16"),
        *("-mavx2", "-mfma", "-mf16c"),
    ),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
}
"""By instruction set, the faster first. -ffp-contract=off: the compiler must not fuse a product
and a sum in one place and not in another, or a row would depend on its neighbours."""
COMMON_FLAGS = (
    *("-std=c++20", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-pthread"),
    *("-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized"),  # gcc.gnu.org/PR105593
)
TIMEOUT_S = 300.0


NEEDS = {
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16"},
    "avx2": {"avx2", "fma", "f16c"},
}
"""Flags of ``/proc/cpuinfo`` that an instruction set stands for."""


class NoKernels(RuntimeError):
    """There are no native kernels here; the message says why."""


def open_library(isa: str | None = None, threads: int | None = None) -> Library:
    """The kernels for an instruction set, by default this processor's fastest.

    Raises ``NoKernels``: another processor, no compiler, or one that refuses.
    """
    isas = supported_isas() if isa is None else [isa]
    if not isas:
        raise NoKernels("this processor has neither AVX-512 nor AVX2")
    path = library_path(isas[0])
    try:
        return Library(str(path), isas[0], threads or len(os.sched_getaffinity(0)))
    except OSError as error:
        raise NoKernels(f"cannot load {path}: {error}") from error


def supported_isas(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Instruction sets of this processor that there are kernels for, the faster first."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return []
    flags: set[str] = next((set(x.split()) for x in lines if x.startswith("flags")), set())
    return [isa for isa in FLAGS if flags >= NEEDS[isa]]


def library_path(isa: str) -> Path:
    """The compiled library for an instruction set, compiled now if it is not there."""
    shipped = _shipped(isa)
    if shipped.exists():
        return shipped
    compiler = _compiler()
    flags = (*COMMON_FLAGS, *FLAGS[isa])
    path = cache_directory() / f"{_fingerprint(compiler, flags)}-{isa}.so"
    if not path.exists():
        _compile([compiler, *flags, str(SOURCES / "step.cpp")], path)
    return path


def ship() -> list[Path]:
    """Compile for every instruction set into the package: for images that have no compiler."""
    compiler = _compiler()
    for isa, flags in FLAGS.items():
        command = [compiler, *COMMON_FLAGS, *flags, str(SOURCES / "step.cpp")]
        _compile(command, _shipped(isa))
    return [_shipped(isa) for isa in FLAGS]


def _shipped(isa: str) -> Path:
    return SOURCES / f"{_fingerprint('', (*COMMON_FLAGS, *FLAGS[isa]))}-{isa}.so"


def _compiler() -> str:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise NoKernels("no C++ compiler: install g++ for the native kernels")
    return compiler


def cache_directory() -> Path:
    """Where libraries are kept; ``XDG_CACHE_HOME`` moves it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nestling" / "native"


def _fingerprint(compiler: str, flags: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr((compiler, flags)).encode())
    for source in sorted(SOURCES.glob("*.[ch]pp")):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def _compile(command: list[str], path: Path) -> None:
    """Run the compiler; the library appears whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as directory:
            output = Path(directory) / path.name
            done = subprocess.run(  # noqa: S603  the compiler that the user has
                [*command, "-o", str(output)],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
            if done.returncode:
                raise NoKernels(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
            output.rename(path)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoKernels(f"cannot compile the native kernels: {error}") from error


def main() -> None:
    """Compile for this processor and say where the kernels are, or why there are none.

    ``--ship`` compiles for every processor that there are kernels for, into the package.
    """
    try:
        if sys.argv[1:] == ["--ship"]:
            sys.stdout.writelines(f"{path}\n" for path in ship())
            return
        library = open_library(threads=1)
        sys.stdout.write(f"native kernels for {library.isa}: {library_path(library.isa)}\n")
    except NoKernels as error:
        sys.stdout.write(f"no native kernels, PyTorch will serve: {error}\n")


if __name__ == "__main__":
    main()
