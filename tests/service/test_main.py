import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from service.__main__ import main
from service.settings.command_line import build_parser, read_settings
from service.settings.schema import Settings


@pytest.fixture(autouse=True)
def _no_settings_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"NESTLING_{name.upper()}", raising=False)


def test_help_lists_every_setting_with_its_default() -> None:
    help_text = " ".join(build_parser().format_help().split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in help_text
        assert str(field.description) in help_text
    assert "[8000]" in help_text
    assert "NESTLING_" in help_text


def test_the_command_line_is_stronger_than_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NESTLING_PORT", "9000")
    monkeypatch.setenv("NESTLING_NUM_SLOTS", "5")
    settings = read_settings(["--port", "9001", "--verify-hashes=false"])
    assert (settings.port, settings.num_slots, settings.verify_hashes) == (9001, 5, False)


def test_a_key_can_come_from_a_file_and_anything_given_is_stronger(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nestling_admin_key").write_text("from a file\n")
    (tmp_path / "nestling_api_keys").write_text("first-key\nsecond-key\n")
    (tmp_path / "of_somebody_else").write_text("x")

    def is_key(key: str, *arguments: str) -> bool:
        admin_key = read_settings([f"--secrets-dir={tmp_path}", *arguments]).admin_key
        assert admin_key is not None
        return admin_key.owner(key) is not None

    assert is_key("from a file")
    assert is_key("an option", "--admin-key", "an option")
    monkeypatch.setenv("NESTLING_ADMIN_KEY", "a variable")
    assert is_key("a variable")
    api_keys = read_settings([f"--secrets-dir={tmp_path}"]).api_keys
    assert api_keys is not None
    assert len(api_keys) == 2


def test_a_secret_that_names_no_setting_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nestling_admin_kye").write_text("x")
    expected = r"nestling_admin_kye is no setting; did you mean nestling_admin_key\?"
    with pytest.raises(ValueError, match=expected):
        read_settings([f"--secrets-dir={tmp_path}"])


def test_a_secret_that_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nestling_admin_key").mkdir()
    assert main([f"--secrets-dir={tmp_path}"]) == 2
    expected = f"service: cannot read {tmp_path}/nestling_admin_key: Is a directory\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--port", "http"], "port: .*'http'"),
        (["--num-slots", "0"], "num_slots: .*'0'"),
        (["--num-slots", "64", "--max-step-tokens", "64"], "max_step_tokens 64 must exceed"),
        (["--device", "abacus"], "unknown device 'abacus'; use auto, cpu or cuda"),
        (["--dtype", "int3"], "dtype: .*'int3'"),
        (["--api-keys", "swordfi"], "api_keys: a key has fewer than 8 characters"),
        (["--admin-key", ""], "admin_key: a key has fewer than 8 characters"),
        (["--guard-metrics", "true"], "guard_metrics needs api_keys"),
        (["--run", ".."], "run: .*does not begin with a dot"),
        (["--run", "a/b"], "run: .*a directory of the volume itself"),
        (["--run", "a\nb"], r"run: .*'a\\nb'.*cannot be printed"),
        (["--run", "x" * 300], "run: .*at most 255 bytes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_value_is_one_line_and_exit_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(rf"service: {expected}.*\n", captured.err)
    assert "swordfi" not in captured.err


def test_an_unknown_variable_is_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NESTLING_PROT", "1")
    assert main([]) == 2
    expected = "service: NESTLING_PROT is no setting; did you mean NESTLING_PORT?\n"
    assert capsys.readouterr().err == expected


def test_an_unknown_option_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["--prot", "1"])
    assert exited.value.code == 2
    assert "--prot" in capsys.readouterr().err


def test_an_option_is_written_out() -> None:
    """An abbreviation that works today becomes ambiguous with tomorrow's setting."""
    with pytest.raises(SystemExit):
        read_settings(["--max-wait", "1"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_modules_are_imported_is_exit_0(
    number: signal.Signals, tmp_path: Path
) -> None:
    program = (
        "import os, sys, types, service.__main__ as main\n"
        "def send(name, *_):\n"
        "    if name == 'service.http.app':\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, types.SimpleNamespace(find_spec=send))\n"
        f"main.main(['--port=0', '--volume={tmp_path}'])\n"
        "print('served')\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "", "")


def test_a_system_without_threads_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def begin(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", begin)
    assert main(["--volume", str(tmp_path), "--port", "0"]) == 1
    assert "the system allows no more threads" in capsys.readouterr().err
