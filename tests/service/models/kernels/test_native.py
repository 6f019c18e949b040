"""The fastest kernels that work are opened, or their absence is explained."""

import ctypes
import ctypes.util
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from serving.native import ISAS, open_native

from service.engine.native import library
from service.engine.native.library import Library
from service.models.kernels import native as kernels
from service.models.kernels.native import NoKernels, open_library, supported_isas
from service.models.kernels.processor import InstructionSet


def test_another_processor_gets_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.models.kernels.processor.supported", list)
    with pytest.raises(NoKernels, match=r"there are kernels for .*: not this"):
        open_library()


def test_a_library_that_does_not_load_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.so").write_text("no library")
    monkeypatch.setattr(kernels, "library_path", lambda isa: tmp_path / "broken.so")
    with pytest.raises(NoKernels, match=r"cannot load .*broken\.so"):
        open_library("avx2")


@pytest.mark.parametrize("trouble", ["does not compile", "does not load"])
def test_the_next_instruction_set_is_tried(
    trouble: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    last = ISAS[-1]
    open_native(last)
    if len(ISAS) < 2:
        pytest.skip("this processor has one instruction set")
    found = kernels.library_path
    (tmp_path / "broken.so").write_text("no library")

    def path_of(isa: InstructionSet) -> Path:
        if isa.name == last:
            return found(isa)
        if trouble == "does not compile":
            raise NoKernels("g++ failed: unknown option")
        return tmp_path / "broken.so"

    monkeypatch.setattr(kernels, "library_path", path_of)
    with caplog.at_level(logging.WARNING):
        assert open_library(threads=1).isa == last
    (message,) = caplog.messages
    assert message.startswith(f"{last} instead of the fastest kernels: ")


def test_where_none_works_every_reason_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    open_native()

    def path_of(isa: InstructionSet) -> Path:
        raise NoKernels("no compiler" if isa.name in ISAS[:2] else "another reason")

    monkeypatch.setattr(kernels, "library_path", path_of)
    with pytest.raises(NoKernels, match=r"^no compiler(; another reason)?$"):
        open_library()


def test_the_fastest_is_opened() -> None:
    open_native()
    assert open_library(threads=1).isa == supported_isas()[0]


def test_threads_that_cannot_be_had_are_an_error_and_no_crash() -> None:
    """Room for some of their stacks alone: those that began end again, and the process goes on."""
    path = str(open_native().functions._name)
    code = f"""
import resource
from pathlib import Path
from service.engine.native.library import Library
Library({path!r}, "any", 2)
in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + (64 << 20),) * 2)
try:
    Library({path!r}, "any", 64)
except OSError as error:
    print(error, len(list(Path("/proc/self/task").iterdir())))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "64 threads cannot be had 1\n"


def test_a_library_with_other_structures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(open_native().functions._name)

    class Shape(ctypes.Structure):
        _fields_ = (*library.Shape._fields_, ("more", ctypes.c_int64))

    changed = tuple(Shape if one is library.Shape else one for one in library.STRUCTURES)
    monkeypatch.setattr(library, "STRUCTURES", changed)
    with pytest.raises(OSError, match=r"Shape has 48 bytes there and 56 here"):
        Library(path, ISAS[0], 1)


def test_a_library_without_a_function_is_refused() -> None:
    libc = ctypes.util.find_library("c")
    if libc is None:
        pytest.skip("no C library found")
    with pytest.raises(OSError, match="has no function nestling_structure_bytes"):
        Library(libc, ISAS[0], 1)


def test_the_command_says_where_the_kernels_are_or_why_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_native()
    kernels.main()
    assert capsys.readouterr().out.startswith(f"native kernels for {ISAS[0]}: /")
    monkeypatch.setenv("CXX", "no-such-compiler")
    kernels.main()
    assert "PyTorch will serve: no C++ compiler" in capsys.readouterr().out
