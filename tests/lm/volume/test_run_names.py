import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys.properties import examples

from lm.volume import list_runs
from lm.volume.read import list_no_runs
from lm.volume.run_names import as_run_name, is_run_name, run_directory, shown, why_no_run

GOOD = ["tiny", "smollm2-135m", "a", "1", "v1.5_x", "-", "пробег", "日本", "é", "x" * 100, "step-1"]
BAD = {
    "empty": "",
    "here": ".",
    "above": "..",
    "hidden": ".x",
    "path": "a/b",
    "absolute": "/tmp/x",
    "line break": "a\nb",
    "line break at the end": "a\n",
    "other line break": "a\u2028b",
    "zero byte": "a\0",
    "space": "a b",
    "space at the end": "a ",
    "at": "a@5",
    "bytes that are no UTF-8": os.fsdecode(b"a\xff"),
    "101 characters": "x" * 101,
    "300 bytes": "日" * 100,
    "a step's": "step-00000500",
    "a long step's": "step-123456789",
    "control": "a\x1b[2J",
    "direction": "a\u202eb",
}


@pytest.mark.parametrize("name", GOOD)
def test_a_run_may_be_called_so(tmp_path: Path, name: str) -> None:
    assert is_run_name(name)
    assert why_no_run(name) is None
    assert run_directory(tmp_path, name) == tmp_path / name
    (tmp_path / name).mkdir()
    assert list_runs(tmp_path) == [name]


@pytest.mark.parametrize("name", BAD.values(), ids=BAD)
def test_a_run_may_not_be_called_so(tmp_path: Path, name: str) -> None:
    assert not is_run_name(name)
    with pytest.raises(ValueError, match="is no name of a run") as refused:
        run_directory(tmp_path, name)
    said = str(refused.value)
    assert said.isprintable()
    assert len(said) < 500
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "a@5", "x" * 101, "step-00000500"])
def test_what_is_there_already_goes_on(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert run_directory(tmp_path, name) == tmp_path / name
    assert list_runs(tmp_path) == [name]


@pytest.mark.parametrize("name", ["a\nb", os.fsdecode(b"a\xff"), "a\x1b[2J", "\u202e"])
def test_what_cannot_be_written_is_no_run_and_said(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert list_runs(tmp_path) == []
    assert "cannot be printed" in list_no_runs(tmp_path)[name]
    assert shown(name).isascii()
    with pytest.raises(ValueError, match="is no name of a run"):
        run_directory(tmp_path, name)


@examples(300)
@given(st.text(max_size=300))
def test_any_text_has_a_nearest_name(text: str) -> None:
    assert is_run_name(as_run_name(text))
    if is_run_name(text):
        assert why_no_run(text) is None
    assert shown(text).isprintable()


@pytest.mark.parametrize("name", ["tiny", "Mine-135M", "v1.5_x", "пробег"])
def test_a_name_is_its_own_nearest(name: str) -> None:
    assert as_run_name(name) == name
