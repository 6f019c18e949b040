"""The processor decides what there are kernels for, on x86 and on ARM."""

import platform
from pathlib import Path

import pytest

from service.models.kernels import processor

AVX2 = "fma avx2 f16c"
CLIENT = f"{AVX2} avx_vnni"
ICE_LAKE = f"{AVX2} avx512f avx512bw avx512dq avx512vl avx512_vnni"


@pytest.mark.parametrize(
    ("machine", "line", "names"),
    [
        ("x86_64", "flags\t\t: fpu sse2", []),
        ("x86_64", f"flags\t\t: {AVX2}", ["avx2"]),
        ("AMD64", f"flags\t\t: {CLIENT}", ["avxvnni", "avx2"]),
        ("x86_64", f"flags\t\t: {ICE_LAKE}", ["avx512vnni", "avx2"]),
        ("x86_64", f"flags\t\t: {ICE_LAKE} avx512_bf16", ["avx512", "avx512vnni", "avx2"]),
        ("aarch64", "Features\t: fp asimd asimddp", ["neon"]),
        ("aarch64", "Features\t: fp asimd", []),
        ("aarch64", f"flags\t\t: {AVX2}", []),
        ("riscv64", "isa\t\t: rv64imafdc", []),
    ],
)
def test_flags_decide(
    machine: str, line: str, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nmodel name\t: any\n{line}\n\nprocessor : 1\n")
    assert [isa.name for isa in processor.supported(cpuinfo)] == names
    assert processor.supported(tmp_path / "absent") == []


def test_a_mac_has_none_and_arm_needs_no_flag_of_x86(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert processor.supported(tmp_path / "absent") == []
    (neon,) = processor.of_machine()
    assert neon.name == "neon"
    assert not any("avx" in flag for flag in neon.compiler_flags)
