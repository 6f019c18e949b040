"""Instruction sets that there are kernels for, and which of them this processor has."""

import dataclasses
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Names of a machine on other systems, as Linux has them."""
_FLAG_LINES = {"x86_64": "flags", "aarch64": "Features"}
"""The line of ``/proc/cpuinfo`` that lists what a processor has."""


@dataclasses.dataclass(frozen=True)
class InstructionSet:
    """What the kernels are compiled for."""

    name: str
    machine: str
    """As ``uname -m`` has it."""
    needs: frozenset[str]
    """Flags of ``/proc/cpuinfo`` that it stands for."""
    compiler_flags: tuple[str, ...]


_AVX2 = ("avx2", "fma", "f16c")
_AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16")

INSTRUCTION_SETS = (
    InstructionSet(
        "avx512",
        "x86_64",
        frozenset(_AVX512 + _AVX2),
        (*(f"-m{flag.replace('_', '')}" for flag in _AVX512), *_AVX2_FLAGS),
    ),
    # Intel's client processors since the 12th generation: byte products in registers of 256 bits.
    InstructionSet(
        "avxvnni", "x86_64", frozenset({"avx_vnni", *_AVX2}), ("-mavxvnni", *_AVX2_FLAGS)
    ),
    # The same kernels on processors with AVX-512's byte products but without its bfloat16.
    InstructionSet(
        "avx512vnni",
        "x86_64",
        frozenset({"avx512vl", "avx512_vnni", *_AVX2}),
        ("-mavx512vl", "-mavx512vnni", *_AVX2_FLAGS),
    ),
    InstructionSet("avx2", "x86_64", frozenset(_AVX2), _AVX2_FLAGS),
    InstructionSet("neon", "aarch64", frozenset({"asimddp"}), ("-march=armv8.2-a+dotprod",)),
)
"""The faster first."""


def machine() -> str:
    """This machine's name as Linux has it."""
    name = platform.machine()
    return _MACHINES.get(name.lower(), name)


def of_machine() -> list[InstructionSet]:
    """What kernels can be compiled for on this machine, whatever its processor has."""
    return [isa for isa in INSTRUCTION_SETS if isa.machine == machine()]


def supported(cpuinfo: Path = CPUINFO) -> list[InstructionSet]:
    """What this processor has, the faster first; nothing where the system does not say."""
    key = _FLAG_LINES.get(machine())
    try:
        lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
    except OSError:
        return []
    flags = next((set(value.split()) for name, _, value in lines if name.strip() == key), set())
    return [isa for isa in of_machine() if flags >= isa.needs]
