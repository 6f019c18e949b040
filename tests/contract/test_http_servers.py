"""The lowest versions of what speaks HTTP that pyproject allows, and the newest there are."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from machine_tools import require_environment

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # some of its tests compare seconds

ROOT = Path(__file__).parents[2]
PACKAGES = ("uvicorn", "httptools", "uvloop")
TESTS = (
    "tests/service/http/connections/test_framing.py",
    "tests/service/http/connections/test_connection.py",
    "tests/service/http/middleware/test_body_limit.py",
    "tests/service/http/test_server.py",
    "tests/fuzz/test_raw_http.py",
    "tests/siege/test_heads.py",
    "tests/siege/test_pipelining.py",
    "tests/siege/test_busy.py",
)


def lowest(package: str) -> str:
    """The lowest version that pyproject allows, as a requirement."""
    found = re.search(rf'"{package}>=([\d.]+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert found is not None, package
    return f"{package}=={found.group(1)}"


WITHOUT_TIMES = ("-k", "not beside_does", "-p", "no:cacheprovider")
"""What a stream beside notices is measured elsewhere, with the versions that are in use."""


@pytest.mark.parametrize("which", ["lowest", "newest"])
def test_connections_are_bounded_on_every_version_that_is_allowed(which: str) -> None:
    wanted = [lowest(package) for package in PACKAGES]
    python = require_environment(
        "python", *(wanted if which == "lowest" else ["--upgrade", *PACKAGES])
    )
    said = "import uvicorn, httptools; print(uvicorn.__version__, httptools.__version__)"
    versions = subprocess.run([python, "-c", said], capture_output=True, text=True, check=True)
    if which == "lowest":
        assert versions.stdout.startswith("0.40."), versions.stdout
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-m", "not slow", *WITHOUT_TIMES, *TESTS],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{versions.stdout}\n{done.stdout[-4000:]}"
