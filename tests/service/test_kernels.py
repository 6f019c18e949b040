"""The library is compiled once for each state of its sources, or its absence is explained."""

from pathlib import Path

import pytest
from serving.native import open_native
from tools import require_tool

from service import kernels
from service.kernels import NoKernels, library_path, open_library, supported_isas


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "nestling" / "native"


def test_without_a_compiler_the_error_says_so(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NoKernels, match=r"no C\+\+ compiler: install g\+\+"):
        library_path("avx2")


def test_what_the_compiler_says_is_passed_on(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_tool("g++", package="g++")
    monkeypatch.setattr(kernels, "COMMON_FLAGS", ("-fno-such-flag",))
    with pytest.raises(NoKernels, match="no-such-flag"):
        library_path("avx2")
    assert list(own_cache.iterdir()) == []


def test_a_library_is_compiled_once(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_tool("g++", package="g++")
    source = own_cache.parent / "sources"
    source.mkdir(parents=True)
    (source / "step.cpp").write_text("int nothing;\n")
    monkeypatch.setattr(kernels, "SOURCES", source)
    first = library_path("avx2")
    made_at = first.stat().st_mtime_ns
    assert library_path("avx2") == first
    assert first.stat().st_mtime_ns == made_at
    (source / "step.cpp").write_text("int something_else;\n")
    assert library_path("avx2") != first


def test_a_package_that_brings_kernels_needs_no_compiler(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_tool("g++", package="g++")
    source = own_cache.parent / "sources"
    source.mkdir(parents=True)
    (source / "step.cpp").write_text("int nothing;\n")
    monkeypatch.setattr(kernels, "SOURCES", source)
    shipped = kernels.ship()
    assert len(shipped) == len(kernels.FLAGS)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert library_path("avx2") in shipped
    assert not own_cache.exists()
    (source / "step.cpp").write_text("int something_else;\n")
    with pytest.raises(NoKernels, match="no C"):
        library_path("avx2")


@pytest.mark.parametrize(
    ("flags", "isas"),
    [
        ("fpu sse2", []),
        ("fma avx2 f16c", ["avx2"]),
        ("fma avx2 f16c avx512f avx512bw avx512dq avx512vl avx512_vnni", ["avx2"]),
        (
            "fma avx2 f16c avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16",
            ["avx512", "avx2"],
        ),
    ],
)
def test_the_processor_decides(tmp_path: Path, flags: str, isas: list[str]) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags\t\t: {flags}\n")
    assert supported_isas(cpuinfo) == isas
    assert supported_isas(tmp_path / "absent") == []


def test_another_processor_gets_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "NEEDS", {isa: {"no-such-flag"} for isa in kernels.FLAGS})
    with pytest.raises(NoKernels, match="neither AVX-512 nor AVX2"):
        open_library()


def test_a_library_that_does_not_load_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.so").write_text("no library")
    monkeypatch.setattr(kernels, "library_path", lambda isa: tmp_path / "broken.so")
    with pytest.raises(NoKernels, match=r"cannot load .*broken\.so"):
        open_library("avx2")


def test_the_fastest_is_opened() -> None:
    open_native("avx2")
    assert open_library(threads=1).isa == supported_isas()[0]


def test_the_command_says_where_the_kernels_are_or_why_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_native("avx2")
    kernels.main()
    assert capsys.readouterr().out.startswith("native kernels for avx")
    monkeypatch.setenv("CXX", "no-such-compiler")
    kernels.main()
    assert "PyTorch will serve: no C++ compiler" in capsys.readouterr().out
