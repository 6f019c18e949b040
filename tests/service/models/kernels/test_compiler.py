"""The library is compiled once for each state of its sources, wherever it may be kept."""

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from machine_tools import require_tool

from service.models.kernels import compiler, processor
from service.models.kernels.compiler import NoKernels, library_path, ship
from service.models.kernels.processor import INSTRUCTION_SETS

(AVX2,) = (isa for isa in INSTRUCTION_SETS if isa.name == "avx2")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / "cache" / "nestling" / "native"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library that compiles in no time, for whatever instruction set."""
    require_tool("g++", package="g++")
    sources = tmp_path / "sources"
    sources.mkdir()
    monkeypatch.setattr(compiler, "SOURCES", sources)
    (sources / "step.cpp").write_text("int nothing;\n")
    return sources / "step.cpp"


def test_without_a_compiler_the_error_says_so(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NoKernels, match=r"no C\+\+ compiler: install g\+\+"):
        library_path(AVX2)


def test_what_the_compiler_says_is_passed_on(own_cache: Path, source: Path) -> None:
    source.write_text("#error the sources are wrong\n")
    with pytest.raises(NoKernels, match="the sources are wrong"):
        library_path(AVX2)
    assert list(own_cache.iterdir()) == []


def test_a_library_is_compiled_once(own_cache: Path, source: Path) -> None:
    first = library_path(AVX2)
    assert first.parent == own_cache
    made_at = first.stat().st_mtime_ns
    assert library_path(AVX2) == first
    assert first.stat().st_mtime_ns == made_at
    source.write_text("int something_else;\n")
    assert library_path(AVX2) != first


def test_a_package_that_brings_kernels_needs_no_compiler(
    own_cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    isas = [isa for isa in INSTRUCTION_SETS if isa.machine == "x86_64"]
    if processor.machine() != "x86_64":
        isas = processor.of_machine()
    shipped = ship(isas)
    assert len(shipped) == len(isas)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert library_path(isas[-1]) in shipped
    assert not own_cache.exists()
    source.write_text("int something_else;\n")
    with pytest.raises(NoKernels, match="no C"):
        library_path(isas[-1])


@pytest.mark.parametrize(
    "trouble", ["no home", "read-only home", "locked home", "noexec home", "home is a file"]
)
def test_without_a_cache_directory_libraries_lie_in_one_of_the_user_s_own(
    trouble: str,
    own_cache: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if trouble == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(Path, "home", no_home)
    elif trouble == "read-only home":  # tests may run as root, whom no mode stops
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/self")
    elif trouble == "locked home":  # another user's, which may not even be looked into
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/self")
        monkeypatch.setattr(Path, "exists", locked(Path("/proc/self"), Path.exists))
    elif trouble == "noexec home":
        if not hasattr(os, "ST_NOEXEC"):
            pytest.skip("this system does not say how a file system is mounted")
        monkeypatch.setattr(os, "statvfs", noexec(own_cache))
    else:
        (tmp_path / "cache").write_text("no directory")
    with caplog.at_level(logging.WARNING):
        path = library_path(AVX2)
    assert path.parent == tmp_path / f"nestling-{os.getuid()}"
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"the native kernels are kept in {path.parent}: ")
    caplog.clear()
    assert library_path(AVX2) == path
    assert len(caplog.messages) == 1, "each start says where they were found"
    assert caplog.messages[0].startswith(f"the native kernels are kept in {path.parent}: ")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("#!/bin/sh\nprintf '\\377\\376' >&2\nexit 1\n", "failed with status 1: "),
        ("#!/bin/sh\nexit 0\n", "failed with status 0: it says nothing"),
        ("#!/bin/sh\nkill -SEGV $$\n", "failed with status -11: it says nothing"),
        ("#!/no/such/interpreter\n", "cannot be run: "),
    ],
)
def test_a_compiler_that_fails_in_any_way_is_named(
    script: str,
    reason: str,
    own_cache: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(script)
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(NoKernels, match=f"{compiler} {reason}"):
        library_path(AVX2)


def test_an_empty_library_is_compiled_again(own_cache: Path, source: Path) -> None:
    path = library_path(AVX2)
    path.write_bytes(b"")
    assert library_path(AVX2) == path
    assert path.stat().st_size > 0


def locked(directory: Path, exists: Callable[[Path], bool]) -> Callable[[Path], bool]:
    def exists_or_refused(path: Path) -> bool:
        if path.is_relative_to(directory):
            raise PermissionError(13, "Permission denied")
        return exists(path)

    return exists_or_refused


def noexec(directory: Path) -> Callable[[Path], SimpleNamespace]:
    flags = {directory: os.ST_NOEXEC}
    return lambda path: SimpleNamespace(f_flag=flags.get(path, 0))


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_directory_that_others_write_to_is_not_loaded_from(
    source: Path, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/self")
    shared = tmp_path / f"nestling-{os.getuid()}"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(NoKernels, match=r"is not this user's alone; .*cannot be written"):
        library_path(AVX2)


def test_without_any_directory_there_are_no_kernels(
    source: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_directory() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/self")
    monkeypatch.setattr(tempfile, "gettempdir", no_directory)
    with pytest.raises(NoKernels, match="nowhere to keep the native kernels: no temporary"):
        library_path(AVX2)


def test_a_missing_tmpdir_does_not_matter(
    source: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/no/such/directory")
    assert library_path(AVX2).parent == own_cache


@pytest.mark.slow
@pytest.mark.parametrize("isa", processor.of_machine(), ids=lambda isa: isa.name)
def test_every_instruction_set_of_this_machine_compiles(
    isa: processor.InstructionSet, own_cache: Path
) -> None:
    require_tool("g++", package="g++")
    assert library_path(isa).stat().st_size > 50_000
