"""The script that checks a GPU, with programs that stand for the measurements."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bench" / "gpu_check.sh"
STAND_IN = f"""#!/bin/sh
case "$*" in
    -c*) exit 0 ;;
    *transformers*) echo transformers; exit 0 ;;
    -\\ rich) echo rich; exit 0 ;;
    -\\ *) exit 0 ;;
    *bench.gpu_report*) exec {sys.executable} "$@" ;;
    *bench.gpu_kernels_once*) echo '{{"benchmark": "gpu kernels", "card": "NVIDIA X1 9GB"}}' ;;
    *bench.gpu_http*) exec sleep 60 ;;
    *bench.gpu\\ *) echo "AssertionError: wrong"; exit 3 ;;
    *training.gpu*) echo "ModuleNotFoundError: No module named 'bench.gone'"; exit 1 ;;
    *test_assemble.py*) echo "E   ModuleNotFoundError: No module named 'rich'"; exit 2 ;;
    *) exit 0 ;;
esac
"""


def run(*arguments: str, python: Path | None = None) -> subprocess.CompletedProcess[str]:
    python_path = sys.executable if python is None else str(python)
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env={**os.environ, "PYTHON": python_path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter that measures nothing."""
    path = tmp_path / "python"
    path.write_text(STAND_IN, "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_help_names_every_step() -> None:
    asked = run("--help")
    assert asked.returncode == 0
    for step in ("kernels", "full", "resume", "tests", "engine", "http", "training", "vllm"):
        assert f"\n  {step} " in asked.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fast"], "unknown option --fast"),
        (["--only", "nothing"], "there is no step nothing"),
        (["--limit"], "--limit needs a value"),
        (["--limit", "soon"], "--limit is a number of seconds, not soon"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], message: str) -> None:
    asked = run(*arguments)
    assert asked.returncode == 2
    assert message in asked.stderr


def test_a_step_that_fails_is_reported_and_the_others_run(tmp_path: Path, python: Path) -> None:
    results = tmp_path / "results"
    asked = run(
        *("--quick", "--limit", "8", "--logs", str(tmp_path / "logs"), "--results", str(results)),
        python=python,
    )
    assert asked.returncode == 1
    steps = dict(
        line.split("\t")[:2]
        for line in (tmp_path / "logs" / "steps.tsv").read_text("utf-8").splitlines()
    )
    assert steps["kernels"] == steps["vllm"] == "ok"
    assert steps["engine"] == "failed with status 3"
    assert steps["full"] == "skipped: needs transformers"
    assert steps["http"].startswith("took longer than")
    assert steps["resume"] == "not run: no time left"
    assert "failed: engine (status 3)" in asked.stderr
    assert "failed: http (took longer than" in asked.stderr
    (report,) = results.glob("gpu_x1_*.md")
    assert "| engine | failed with status 3 |" in report.read_text("utf-8")


def test_a_package_that_is_missing_deep_inside_is_a_step_that_is_skipped(
    tmp_path: Path, python: Path
) -> None:
    asked = run("--only", "resume", "kernels", "--results", str(tmp_path), python=python)
    assert "[resume: skipped: needs rich, " in asked.stdout
    assert asked.returncode == 0


def test_a_module_of_ours_that_is_missing_is_a_failure(tmp_path: Path, python: Path) -> None:
    asked = run("--only", "training", "kernels", "--results", str(tmp_path), python=python)
    assert "[training: failed with status 1, " in asked.stdout
    assert asked.returncode == 1


def test_the_logs_of_an_earlier_run_are_no_results(tmp_path: Path, python: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "engine.log").write_text('{"benchmark": "gpu", "card": "NVIDIA X0"}\n', "utf-8")
    asked = run(
        *("--only", "kernels", "--logs", str(logs), "--results", str(tmp_path)), python=python
    )
    assert asked.returncode == 0
    (report,) = tmp_path.glob("gpu_*.md")
    assert report.name.startswith("gpu_x1_")
    assert "X0" not in report.read_text("utf-8")


def test_without_a_card_it_says_so() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    asked = run()
    assert asked.returncode == 1
    assert "no PyTorch that sees a CUDA device" in asked.stderr
