from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import SourceConfig
from trainer.corpus import file


def source(path: Path, fraction: float = 0.1) -> SourceConfig:
    return SourceConfig(name="own", corpus=f"file:{path}", validation_fraction=fraction)


def test_the_tail_is_held_out_from_a_line_boundary_on(tmp_path: Path) -> None:
    path = tmp_path / "input.txt"
    path.write_text("".join(f"line {number}\n" for number in range(100)), "utf-8")
    split = file.read(source(path))
    (train,), (validation,) = split.train, split.validation
    assert train + validation == path.read_text("utf-8")
    assert train.endswith("\n")
    assert validation.startswith("line 90\n")


@given(
    lines=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r"))),
    fraction=st.floats(0.01, 0.99),
)
def test_any_text_is_split_without_loss_or_refused(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], fraction: float
) -> None:
    path = tmp_path_factory.mktemp("corpus") / "input.txt"
    text = "\n".join(lines).removeprefix("\ufeff")
    path.write_bytes(text.encode())
    try:
        split = file.read(source(path, fraction))
    except ValueError as error:
        assert "too short" in str(error)  # noqa: PT017
    else:
        assert split.train[0] + split.validation[0] == text
        assert split.train[0].endswith("\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too short to hold out 10%"),
        (b"one line alone", "too short to hold out 10%"),
        (b"caf\xe9\n", r"not UTF-8 text \(byte 0xe9 at 3\)"),
        (None, "No such file or directory"),
    ],
)
def test_a_file_that_is_no_corpus_is_refused_in_one_line(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "input.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        file.read(source(path))
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "input.txt"
    path.write_bytes("\ufeffa\nb\nc\n".encode())
    assert file.read(source(path)).train[0].startswith("a\n")
