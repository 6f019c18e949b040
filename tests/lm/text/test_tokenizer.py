import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from toys import END_OF_TEXT, toy_tokenizer
from toys.properties import examples
from transformers import AutoTokenizer

from lm.text.tokenizer import Tokenizer

CHATML = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def changed(change: Callable[[Backend], object]) -> Tokenizer:
    """The toy's tokenizer with a change to a backend of its own."""
    backend = Backend.from_str(toy_tokenizer().backend.to_str())
    change(backend)
    return Tokenizer(backend, bos_token_id=0, eos_token_ids=[0])


@examples(200)
@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    tokenizer = toy_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n\t ",
        "naïve café",
        "日本語と中文",
        "👩‍👩‍👧‍👦🏳️‍🌈",
        "e\u0301o\u0308",
        "\x00\x7f\ufeff",
        "ﷺ" * 5,
    ],
)
def test_texts_that_tokenizers_stumble_over_come_back(text: str) -> None:
    tokenizer = toy_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@examples(100)
@given(st.text())
def test_ids_lie_within_the_vocabulary(text: str) -> None:
    assert all(0 <= token_id < 300 for token_id in toy_tokenizer().encode(text))


def test_the_vocabulary_counts_added_tokens() -> None:
    assert toy_tokenizer().vocab_size == 300
    assert changed(lambda backend: backend.add_special_tokens(["<|im_end|>"])).vocab_size == 301


def test_a_special_token_written_out_becomes_its_id_and_no_text() -> None:
    tokenizer = toy_tokenizer()
    token_ids = tokenizer.encode(f"To be{END_OF_TEXT}or not")
    assert token_ids.count(0) == 1
    assert tokenizer.decode(token_ids) == "To beor not"


def test_special_token_ids_are_those_that_stand_for_no_text() -> None:
    def add(backend: Backend) -> None:
        backend.add_special_tokens(["<|im_start|>"])
        backend.add_tokens([AddedToken("<tool>")])

    assert toy_tokenizer().special_token_ids == {0}
    assert changed(add).special_token_ids == {0, 300}


def test_broken_utf8_becomes_replacement_characters() -> None:
    tokenizer = toy_tokenizer()
    half = tokenizer.encode("日")[:-1]
    assert tokenizer.decode(half) == "\N{REPLACEMENT CHARACTER}"


def test_ids_beyond_the_vocabulary_stand_for_nothing() -> None:
    tokenizer = toy_tokenizer()
    assert tokenizer.decode([*tokenizer.encode("to be"), 300, 4_000]) == "to be"


@pytest.mark.parametrize("chat_template", [None, CHATML])
def test_a_saved_tokenizer_is_the_same_when_loaded(
    tmp_path: Path, chat_template: str | None
) -> None:
    tokenizer = Tokenizer(
        toy_tokenizer().backend, bos_token_id=0, eos_token_ids=[0], chat_template=chat_template
    )
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode("to be, or not to be") == tokenizer.encode("to be, or not to be")
    assert loaded.bos_token_id == 0
    assert loaded.eos_token_ids == (0,)
    assert loaded.chat_template == chat_template
    assert loaded.fingerprint == tokenizer.fingerprint


def test_a_file_alone_can_be_loaded(tmp_path: Path) -> None:
    file = tmp_path / "some.json"
    file.write_text(toy_tokenizer().backend.to_str(), "utf-8")
    loaded = Tokenizer.load(file)
    assert loaded.encode("to be") == toy_tokenizer().encode("to be")
    assert loaded.bos_token_id is None
    assert loaded.eos_token_ids == ()


def test_a_saved_tokenizer_opens_with_transformers(tmp_path: Path) -> None:
    toy_tokenizer().save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = "To die, to sleep: naïve 日本"
    assert theirs.encode(text) == toy_tokenizer().encode(text)
    assert theirs.decode(theirs.encode(text)) == text
    assert theirs.eos_token == theirs.bos_token == END_OF_TEXT


def test_end_tokens_are_all_that_any_file_names_the_tokenizers_own_first(tmp_path: Path) -> None:
    toy_tokenizer().save(tmp_path)
    generation = tmp_path / "generation_config.json"
    generation.write_text(json.dumps({"eos_token_id": [2, 5]}))
    assert Tokenizer.load(tmp_path).eos_token_ids == (0, 2, 5)
    generation.write_text(json.dumps({"eos_token_id": 7}))
    assert Tokenizer.load(tmp_path).eos_token_ids == (0, 7)
    generation.write_text(json.dumps({"bos_token_id": 1}))
    assert Tokenizer.load(tmp_path).eos_token_ids == (0,)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [9, 0]}))
    assert Tokenizer.load(tmp_path).eos_token_ids == (0, 9)


def test_special_tokens_may_be_named_in_the_older_object_form(tmp_path: Path) -> None:
    toy_tokenizer().save(tmp_path)
    names = {"bos_token": {"content": END_OF_TEXT, "lstrip": False}, "eos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    loaded = Tokenizer.load(tmp_path)
    assert loaded.bos_token_id == 0
    assert loaded.eos_token_ids == ()


def test_a_chat_template_file_comes_before_the_config(tmp_path: Path) -> None:
    backend = toy_tokenizer().backend
    Tokenizer(backend, bos_token_id=0, eos_token_ids=[0], chat_template="old").save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    assert Tokenizer.load(tmp_path).chat_template == CHATML


def test_a_saved_truncation_or_padding_does_not_touch_any_text(tmp_path: Path) -> None:
    def cut_and_fill(backend: Backend) -> None:
        backend.enable_truncation(3)
        backend.enable_padding(length=8)

    changed(cut_and_fill).save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    for text in ("a", "to be, or not to be, that is the question"):
        assert loaded.encode(text) == toy_tokenizer().encode(text)


def test_what_is_missing_or_no_tokenizer_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"no tokenizer at {tmp_path}"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.load(tmp_path)


def test_the_fingerprint_is_the_same_for_the_same_tokenizer() -> None:
    assert changed(lambda backend: None).fingerprint == toy_tokenizer().fingerprint


def test_the_fingerprint_changes_with_whatever_decides_ids_or_text() -> None:
    backend = toy_tokenizer().backend
    different = [
        toy_tokenizer(),
        changed(lambda backend: backend.add_special_tokens(["<|im_end|>"])),
        changed(lambda backend: backend.add_tokens(["<|im_end|>"])),
        Tokenizer(backend, bos_token_id=None, eos_token_ids=[0]),
        Tokenizer(backend, bos_token_id=0, eos_token_ids=[]),
        Tokenizer(backend, bos_token_id=0, eos_token_ids=[0, 1]),
        Tokenizer(backend, bos_token_id=0, eos_token_ids=[0], chat_template=CHATML),
    ]
    assert len({tokenizer.fingerprint for tokenizer in different}) == len(different)
