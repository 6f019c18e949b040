"""Compiles the kernels of a step of flat rows for sm_80 and sm_90, and writes what each takes.

A program, because a process that has chosen Triton's interpreter cannot compile.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from service.engine.gpu.flat import prefill_attention, rotate_write, rowwise

INTS = "counters token_ids slots last_tokens positions tiles row_indices"
NUMBERS = "qkv key_cache value_cache out embedding weight delta gate_up hidden"
TYPES = {
    **dict.fromkeys(INTS.split(), "*i32"),
    **dict.fromkeys(NUMBERS.split(), "*bf16"),
    **dict.fromkeys(("cos", "sin", "x", "peaks", "totals", "sums"), "*fp32"),
    "is_finite": "*i1",
    "scale": "fp32",
    "T": "i32",
    "N": "i32",
    "span": "i32",
}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
SHARED_BYTES = 99 * 1024
"""Of one program, on the smallest of the cards from compute capability 8.0 on (8.6, 8.9)."""


def report(kernel: Any, arch: int, constants: dict[str, Any], warps: int, stages: int = 2) -> None:
    names = [parameter.name for parameter in kernel.params]
    constants = {name: constants[name] for name in names if name not in TYPES}
    signature = {name: TYPES.get(name, "constexpr") for name in names}
    attributes = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if signature[name].startswith("*") or name in ("T", "N", "span")
    }
    built = triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(built.asm["cubin"])
        cubin.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "-res-usage", cubin.name], capture_output=True, text=True, check=True
        ).stdout
    registers, stack, local = (
        int(number)
        for what in ("REG", "STACK", "LOCAL")
        for number in re.findall(rf"{what}:(\d+)", usage)
    )
    assert stack + local == 0, f"{kernel.fn.__name__} spills"
    assert built.metadata.shared <= SHARED_BYTES
    width = constants.get("D") or constants.get("C") or constants.get("INNER")
    sys.stdout.write(
        f"sm_{arch} {kernel.fn.__name__} width {width} rows {constants.get('ROWS', 1)}: "
        f"{built.metadata.shared} B shared, {registers} registers\n"
    )


def compile_all(width: int, heads: int, shared: int, head_dim: int, inner: int) -> None:
    pad = triton.next_power_of_2
    shape = {
        "HQ": heads,
        "HKV": shared,
        "D": head_dim,
        "C": width,
        "INNER": inner,
        "EPS": 1e-5,
        "TURNING": pad(heads + shared),
        "VALUES": pad(shared),
        "HALF": pad(head_dim // 2),
        "WIDTH": pad(head_dim),
        "BLOCK": pad(width),
    }
    for arch in (80, 90):
        shape["PDL"] = arch >= 90
        for kernel in (rowwise._embed_norm, rowwise._add_norm, rowwise._gather_rows):
            report(kernel, arch, shape, rowwise._warps(pad(width)))
        report(rowwise._silu_mul, arch, {**shape, "BLOCK": rowwise.SILU_COLUMNS}, 4)
        report(rotate_write._rotate_write, arch, shape, 4)
        for tile_rows in (16, 64):
            of = prefill_attention.ProgramShape.of(tile_rows, tile_rows, heads // shared, 8192)
            parts = tile_rows * (heads // shared) // of.rows
            sizes = {"ROWS": of.rows, "KEYS": of.keys, "PARTS": parts, "SPLITS": of.splits}
            report(prefill_attention._tile_attention, arch, {**shape, **sizes}, of.warps, of.stages)


if __name__ == "__main__":
    compile_all(width=576, heads=9, shared=3, head_dim=64, inner=1536)
    compile_all(width=2048, heads=16, shared=4, head_dim=128, inner=8192)
