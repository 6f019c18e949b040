"""Every kernel of a decode step compiles for cards that are not here, and fits on them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

ROOT = Path(__file__).parents[5]
PROGRAM = Path(__file__).with_name("compile_ahead.py")
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}
"""Of one program, by compute capability: CUDA C++ Programming Guide, technical specifications."""
ROWS = {"smollm2-135m": ["1", "2", "4", "32", "64", "256"], "2048-wide": ["1", "16", "256"]}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("shape", list(ROWS))
def test_kernels_compile_ahead(capability: int, shape: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, PROGRAM, str(capability), shape, *ROWS[shape]],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert {kernel["kernel"] for kernel in kernels} >= {
        *("_embed", "_decode_attention", "multiply_by_sums", "merge_and_multiply"),
        *("multiply_in_parts", "multiply_in_a_loop", "normalize", "gate"),
        *(["multiply_in_tiles"] if shape == "smollm2-135m" else []),  # else its inputs would spill
    }
    for kernel in kernels:
        assert kernel["shared"] <= SHARED_BYTES[capability], kernel
        assert kernel["waits"] == (capability >= 90), kernel
        assert kernel["spills"] <= 64, kernel
