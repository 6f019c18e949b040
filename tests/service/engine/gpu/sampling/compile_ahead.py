"""Compiles every variant's kernels for cards that need not be there; one JSON line a kernel.

Run as a process of its own: Triton's interpreter, once chosen, compiles nothing.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lm.sampling import GREEDY_TEMPERATURE
from service.engine.gpu.sampling.kernels.choose import choose_tokens
from service.engine.gpu.sampling.kernels.groups import group_tokens
from service.engine.gpu.sampling.sampler import NEGLIGIBLE, SamplerTuning
from service.engine.gpu.sampling.variant import Variant

TYPES = {
    "slots": "*i32", "adjust": "*i32", "words": "*i32", "top_k": "*i32", "group_lists": "*i32",
    "id_lists": "*i32", "tokens": "*i32", "last_tokens": "*i32", "uniforms": "*fp64",
    "top_p": "*fp64", "V": "i32", "G": "i32", "CAPACITY": "i32",
}  # fmt: skip
"""Of the arguments; the others are pointers to float32."""


def main() -> None:
    for capability in (80, 90):
        for variant in Variant:
            for kernel in (group_tokens, choose_tokens):
                report(kernel, variant, capability)


def report(kernel: Any, variant: Variant, capability: int) -> None:
    tuning = SamplerTuning()
    constants = {
        "GREEDY_BELOW": GREEDY_TEMPERATURE, "GROUP": tuning.group,
        "TILE": tuning.tile, "FEW": tuning.few,
        "NEGLIGIBLE": NEGLIGIBLE, "STEPS": tuning.bound_steps, "SUMS": variant.draws,
        "DRAWS": variant.draws, "FILTERS": variant.filters, "ADJUSTED": variant.adjusts,
        "GROUPS": 2048 if kernel is choose_tokens else tuning.tokens_a_program // tuning.group,
    }  # fmt: skip
    names = [p.name for p in kernel.params]
    signature = {
        name: "constexpr" if name in constants else TYPES.get(name, "*fp32") for name in names
    }
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if name not in constants
    }
    warps = tuning.choose_warps if kernel is choose_tokens else tuning.group_warps
    compiled = triton.compile(
        ASTSource(kernel, signature, {n: constants[n] for n in names if n in constants}, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "enable_fp_fusion": False},
    )
    line = {
        "kernel": kernel.__name__,
        "variant": variant.value,
        "sm": capability,
        "shared": compiled.metadata.shared,
        **usage(compiled.asm["cubin"]),
    }
    sys.stdout.write(json.dumps(line) + "\n")


def usage(cubin: bytes) -> dict[str, int]:
    """Registers a thread and bytes of stack, as Triton's own cuobjdump says."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [tool, "-res-usage", file.name], check=True, capture_output=True, text=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found, text
    return {"registers": int(found[1]), "stack": int(found[2])}


if __name__ == "__main__":
    sys.exit(main())
