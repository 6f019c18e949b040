import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.corpora import file
from trainer.data.corpora.split import Split, num_bytes
from trainer.recipe.sections import SourceConfig


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
def test_any_text_is_split_without_loss_or_has_nothing_to_split(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], fraction: float
) -> None:
    path = tmp_path_factory.mktemp("corpus") / "input.txt"
    text = "\n".join(lines).removeprefix("\ufeff")
    path.write_bytes(text.encode())
    if len(text.strip()) < 2:
        with pytest.raises(ValueError, match="too short"):
            file.read(source(path, fraction))
        return
    split = file.read(source(path, fraction))
    assert split.train[0] + split.validation[0] == text
    assert split.train[0].strip()
    assert split.validation[0].strip()


def read_text(tmp_path: Path, text: str, **options: Any) -> Split:
    path = tmp_path / "input.txt"
    path.write_bytes(text.encode())
    return file.read(SourceConfig(name="own", corpus=f"file:{path}", **options))


@pytest.mark.parametrize(
    ("text", "train"),
    [
        ("x" * 100, "x" * 90),
        ("line\n" * 20 + "\n" * 400, "line\n" * 17),
        ("\n" * 400 + "line\n" * 20, "\n" * 400 + "line\n" * 17),
        ("line\r" * 20, "line\n" * 17),
        ("ab", "a"),
        ("first " * 40 + "\nlast\n", "first " * 40 + "\n"),
    ],
    ids=["one line", "blank end", "blank begin", "CR", "two characters", "a long first line"],
)
def test_layouts_that_have_text_to_hold_out_are_not_too_short(
    tmp_path: Path, text: str, train: str
) -> None:
    assert read_text(tmp_path, text).train == (train,)


def test_line_ends_become_one_kind_unless_they_are_kept(tmp_path: Path) -> None:
    text = "one\r\ntwo\rthree\nfour\r\n" * 5
    split = read_text(tmp_path, text)
    assert "".join(split.train + split.validation) == "one\ntwo\nthree\nfour\n" * 5
    kept = read_text(tmp_path, text, keep_line_ends=True)
    assert "".join(kept.train + kept.validation) == text


def test_a_kept_line_end_is_not_cut_in_two(tmp_path: Path) -> None:
    split = read_text(tmp_path, "a\r\nb", keep_line_ends=True, validation_fraction=0.4)
    assert split.validation == ("b",)


def test_end_of_text_lines_stand_between_documents(tmp_path: Path) -> None:
    stories = [f"Story {number}.\nThe end.\n" for number in range(20)]
    text = "<|endoftext|>\n".join(stories)
    split = read_text(tmp_path, f"<|endoftext|>\n{text}<|endoftext|> \n\n<|endoftext|>")
    assert split.train + split.validation == tuple(stories)
    assert len(split.validation) == 2
    assert "20 documents" in split.description
    assert read_text(tmp_path, text.replace("\n", "\r\n")).train == split.train
    one = read_text(tmp_path, f"{stories[0]}<|endoftext|>\n")
    assert one.train + one.validation == ("Story 0.\n", "The end.\n")


def test_the_same_words_inside_a_line_are_text(tmp_path: Path) -> None:
    text = "say <|endoftext|> aloud\n" * 9
    split = read_text(tmp_path, text)
    assert "".join(split.train + split.validation) == text


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "A.JSON", "t.csv", "t.parquet"])
def test_a_format_that_is_no_running_text_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"text": "a"}\n' * 9)
    with pytest.raises(ValueError, match=r"and file: would train on it as text"):
        file.read(source(tmp_path / name))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too short to hold out 10%"),
        (b" \n\n a \n", "too short to hold out 10%"),
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


@pytest.mark.parametrize(
    "sizes", [(100, 5000), (50, 50), (30, 30, 30), (5000, 1), (9, 5000, 9), (1,) * 50 + (5000,)]
)
def test_documents_of_any_sizes_hold_out_about_the_share_that_is_said(
    tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    lines = (f"line {number} of some words" for number in itertools.count())
    texts = ["\n".join(itertools.islice(lines, size)) + "\n" for size in sizes]
    path = tmp_path / "documents.txt"
    path.write_text("<|endoftext|>\n".join(texts), "utf-8")
    split = file.read(source(path))
    train, held_out = num_bytes(split.train), num_bytes(split.validation)
    assert train + held_out == num_bytes(texts)
    share = held_out / (train + held_out)
    assert 0.05 <= share <= 0.2
    assert f"the last {share:.0%} held out" in split.description
    assert "".join((*split.train, *split.validation)) == "".join(texts)


@pytest.mark.parametrize(
    "text",
    [
        "A title\n" + "word " * 2000,
        "A title\n" + "word " * 2000 + "\n<|endoftext|>\nsmall\n",
        "small\n<|endoftext|>\nA title\n" + "word " * 2000,
        "word " * 2000 + "\n" + "short\n" * 100,
    ],
    ids=["a title", "a title first", "a title last", "a long line first"],
)
def test_long_lines_hold_out_about_the_share_that_is_said(tmp_path: Path, text: str) -> None:
    split = read_text(tmp_path, text)
    share = num_bytes(split.validation) / (num_bytes(split.train) + num_bytes(split.validation))
    assert 0.05 <= share <= 0.2
    assert f"the last {share:.0%} held out" in split.description
