from pathlib import Path

import pytest

from playground.__main__ import KEY_VARIABLE, main, read_key


@pytest.mark.parametrize("text", ["first-key", "first-key\n", "first-key, second", "first-key\nb"])
def test_the_first_key_of_a_file_is_taken(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "weaker")
    path = tmp_path / "keys"
    path.write_text(text)
    assert read_key(path) == "first-key"


def test_without_a_file_the_environment_has_the_key_if_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert read_key(None) is None
    monkeypatch.setenv(KEY_VARIABLE, "a-key")
    assert read_key(None) == "a-key"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--service", "localhost:8000"], "is no http:// address"),
        (["--api-key-file", "/no/such/file"], "/no/such/file: No such file or directory"),
        (["--api-key-file", "/dev/null"], "/dev/null: it has no key"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("playground: ")
    assert said in line
