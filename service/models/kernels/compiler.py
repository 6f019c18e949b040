"""Compiles the kernels for an instruction set, once for each state of their sources.

A library lies in the user's cache directory under a name made of the sources, the flags and the
compiler, so that an edit or another machine never meets a stale one. Where that directory cannot
be had, written or loaded from, it lies in one of the user's own under the system's temporary
directory. A package may bring its libraries.
"""

import hashlib
import logging
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from service.models.kernels.processor import InstructionSet

SOURCES = Path(__file__).parents[2] / "engine" / "native"
COMMON_FLAGS = (
    *("-std=c++20", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-pthread"),
    *("-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized"),  # gcc.gnu.org/PR105593
)
"""-ffp-contract=off: the compiler must not fuse a product and a sum in one place and not in
another, or a row would depend on its neighbours."""
TIMEOUT_S = 300.0

logger = logging.getLogger(__name__)


class NoKernels(RuntimeError):
    """There are no native kernels here; the message says why."""


def library_path(isa: InstructionSet) -> Path:
    """The compiled library, compiled now if it is not there; raises ``NoKernels``."""
    shipped = shipped_path(isa)
    if shipped.exists():
        return shipped
    compiler = _compiler()
    flags = (*COMMON_FLAGS, *isa.compiler_flags)
    name = f"{_fingerprint(compiler, flags)}-{isa.name}.so"
    directories, reasons = _directories()
    for number, directory in enumerate(directories):
        if _is_there(directory / name):
            if reasons or number:
                why = "; ".join(reasons) or f"not in {directories[0]}"
                logger.warning("the native kernels are kept in %s: %s", directory, why)
            return directory / name
    for directory in directories:
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not _may_be_loaded_from(directory):
                reasons.append(f"nothing in {directory} may be executed")
                continue
            with tempfile.TemporaryDirectory(dir=directory) as scratch:
                _compile([compiler, *flags, str(SOURCES / "step.cpp")], directory / name, scratch)
        except OSError as error:
            reasons.append(f"{directory} cannot be written ({error.strerror})")
            continue
        if reasons:
            logger.warning("the native kernels are kept in %s: %s", directory, "; ".join(reasons))
        return directory / name
    raise NoKernels(f"nowhere to keep the native kernels: {'; '.join(reasons)}")


def ship(isas: list[InstructionSet]) -> list[Path]:
    """Compile into the package, for images that have no compiler; raises ``NoKernels``."""
    compiler = _compiler()
    for isa in isas:
        command = [compiler, *COMMON_FLAGS, *isa.compiler_flags, str(SOURCES / "step.cpp")]
        try:
            with tempfile.TemporaryDirectory(dir=SOURCES) as scratch:
                _compile(command, shipped_path(isa), scratch)
        except OSError as error:
            raise NoKernels(f"cannot compile the native kernels: {error}") from error
    return [shipped_path(isa) for isa in isas]


def shipped_path(isa: InstructionSet) -> Path:
    """Where a package brings the library, if it does."""
    return SOURCES / f"{_fingerprint('', (*COMMON_FLAGS, *isa.compiler_flags))}-{isa.name}.so"


def _compiler() -> str:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise NoKernels("no C++ compiler: install g++ for the native kernels")
    return compiler


def _directories() -> tuple[list[Path], list[str]]:
    """Where libraries are kept, the first choice first, and why others are not among them.

    ``XDG_CACHE_HOME`` moves it. Others can write to the temporary directory: what is loaded from
    there must lie in a directory of the user's own.
    """
    directories, reasons = [], []
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        directories.append(base / "nestling" / "native")
    except RuntimeError:  # neither HOME nor an entry of the user's in passwd
        reasons.append("there is no home directory")
    try:
        directory = Path(tempfile.gettempdir()) / f"nestling-{os.getuid()}"
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
        is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
        if is_own and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            directories.append(directory)
        else:
            reasons.append(f"{directory} is not this user's alone")
    except OSError as error:  # no temporary directory either
        reasons.append(f"no temporary directory ({error.strerror})")
    return directories, reasons


def _is_there(path: Path) -> bool:
    """Whether a library can be loaded: its path may lie in a home that may not be looked into."""
    try:
        is_whole = path.exists() and path.stat().st_size > 0
        return is_whole and _may_be_loaded_from(path.parent)
    except OSError:
        return False


def _may_be_loaded_from(directory: Path) -> bool:
    """Whether its file system was mounted without ``noexec``."""
    return not os.statvfs(directory).f_flag & getattr(os, "ST_NOEXEC", 0)


def _fingerprint(compiler: str, flags: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr((compiler, flags)).encode())
    for source in sorted(SOURCES.glob("*.[ch]pp")):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def _compile(command: list[str], path: Path, scratch: str) -> None:
    """Run the compiler; the library appears whole or not at all.

    Raises ``NoKernels`` for what the compiler says, and ``OSError``.
    """
    output = Path(scratch) / path.name
    try:
        done = subprocess.run(  # noqa: S603  the compiler that the user has
            [*command, "-o", str(output)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
            env=os.environ | {"TMPDIR": scratch},  # the one of the environment may not be there
        )
    except subprocess.SubprocessError as error:
        raise NoKernels(f"cannot compile the native kernels: {error}") from error
    except OSError as error:
        raise NoKernels(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode or not output.exists():
        said = done.stderr.strip()[-500:] or "it says nothing"
        raise NoKernels(f"{command[0]} failed with status {done.returncode}: {said}")
    with output.open("rb") as file:
        os.fsync(file.fileno())  # a library cut short by a power failure would kill who loads it
    output.rename(path)
