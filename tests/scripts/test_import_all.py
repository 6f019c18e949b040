"""Every module can be imported here, and one that cannot is named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("path", [".", "tests/scripts/without_linux:."])
def test_every_module_can_be_imported(path: str) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/import_all.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 300
