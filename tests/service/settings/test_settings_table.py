from pathlib import Path

import pytest

from service.__main__ import main
from service.settings.schema import Settings

KEY = "a-very-secret-key"


@pytest.fixture(autouse=True)
def _no_settings_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"NESTLING_{name.upper()}", raising=False)


def table(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    """Lines of the printed table by setting, columns apart by one space."""
    assert main(["settings", *arguments]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines.pop(0) == "name type default value source meaning"
    return {line.split()[0]: line for line in lines}


def test_every_setting_has_a_line_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    lines = table(capsys)
    assert list(lines) == list(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        assert lines[name].endswith(f" {field.description}")
        assert not set("[]<'") & set(lines[name].removesuffix(str(field.description))), "a type"


def test_each_source_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nestling_admin_key").write_text(f"{KEY}\n")
    monkeypatch.setenv("NESTLING_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("NESTLING_THREADS", "3")
    monkeypatch.setenv("NESTLING_PORT", "9000")
    lines = table(capsys, "--port", "9001")
    assert lines["port"].startswith("port int 8000 9001 --port Port")
    assert lines["threads"].startswith("threads int or none none 3 NESTLING_THREADS Threads")
    secret = f"admin_key secret or none none (hidden) {tmp_path}/nestling_admin_key Key"
    assert lines["admin_key"].startswith(secret)
    assert lines["cors_origins"].startswith("cors_origins texts none none default Origins")
    choices = "auto|float32|bfloat16|float64|int8|int4"
    assert lines["dtype"].startswith(f"dtype {choices} auto auto default ")


def test_a_variable_that_kubernetes_made_is_no_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NESTLING_PORT", "tcp://10.0.0.1:8000")
    assert table(capsys)["port"].startswith("port int 8000 8000 default ")


@pytest.mark.parametrize("arguments", [["--admin-key", KEY], []], ids=["option", "variable"])
def test_a_secret_is_never_printed(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not arguments:
        monkeypatch.setenv("NESTLING_ADMIN_KEY", KEY)
    assert "(hidden)" in table(capsys, *arguments)["admin_key"]
    assert main(["settings", *arguments, "--port", "http"]) == 2
    captured = capsys.readouterr()
    assert KEY not in captured.out + captured.err


def test_settings_that_would_not_start_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "--num-slots", "0"]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err[:20]) == ("", "service: num_slots: ")
