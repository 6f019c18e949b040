import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("failing_supervisor.py")
ROOT = Path(__file__).parents[3]


def test_a_service_whose_http_processes_cannot_start_has_failed() -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "HTTP process 0 has not started (3)" in done.stderr
    assert done.returncode == 1
