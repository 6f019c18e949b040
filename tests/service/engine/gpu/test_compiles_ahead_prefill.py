"""Every kernel of a step of flat rows compiles for GPUs that are not here, and fits them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_kernels_compile_for_cards_that_are_not_here() -> None:
    pytest.importorskip("triton", reason="the kernels are written in Triton")
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("compile_prefill_ahead.py")],
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[4])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    sys.stdout.write(done.stdout)
    assert len(done.stdout.splitlines()) == 2 * 2 * 7
