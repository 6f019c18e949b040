"""The one command starts each program with its arguments, and says what is wrong with a name."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nestling.__main__ import COMMANDS, main, missing_extra

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name("nestling")), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_command_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"]["nestling"] == "nestling.__main__:main"
    assert run("--help").returncode == 0


@pytest.mark.parametrize("given", [["--help"], ["help"], ["-h"]])
def test_help_lists_every_command(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)


def test_no_command_shows_the_help_as_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("usage: nestling COMMAND")


def test_a_name_that_is_none_names_the_one_that_is_near(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["serv"]) == 2
    assert "no command 'serv'; did you mean serve?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["describe", "run", "capacity"])
def test_a_command_gets_its_arguments_and_its_status_counts(tmp_path: Path, name: str) -> None:
    helped = run(name, "--help", cwd=tmp_path)
    assert helped.returncode == 0
    assert helped.stdout.startswith("usage: ")
    assert name in helped.stdout.splitlines()[0]
    wrong = run(name, "--no-such-option", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "--no-such-option" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_program_whose_extra_is_missing_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "uvicorn" else real(name)
    )
    assert missing_extra("service") == "service"
    assert main(["serve"]) == 2
    assert "pip install 'nestling[service]'" in capsys.readouterr().err
