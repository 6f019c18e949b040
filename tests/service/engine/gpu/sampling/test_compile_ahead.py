"""The kernels compile for cards that are not here, and keep to their registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels are Triton's")

from service.engine.gpu.sampling.variant import Variant

SCRIPT = Path(__file__).with_name("compile_ahead.py")
ROOT = Path(__file__).parents[5]


@pytest.mark.slow
def test_every_variant_compiles_for_the_a100_and_the_h100_and_spills_nothing(
    tmp_path: Path,
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, SCRIPT], env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kernels) == 2 * 2 * len(Variant)
    assert {kernel["sm"] for kernel in kernels} == {80, 90}
    # 128 registers of 8 warps let two programs share a multiprocessor.
    assert max(kernel["registers"] for kernel in kernels) <= 128
    assert max(kernel["stack"] for kernel in kernels) == 0
