"""A ``tokenizer.model`` alone; oracle: SentencePiece itself."""

import io
from pathlib import Path
from typing import Any

import pytest

from lm.text.sentencepiece_file import PROBES
from lm.text.tokenizer import Tokenizer

TEXT = ["To be, or not to be: that is the question.", "Once upon a time, 12 of them."] * 20


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"tokenizer\.model: needs sentencepiece; run: pip"):
        Tokenizer.load(tmp_path)


def trained(path: Path, **options: Any) -> Any:
    sentencepiece = pytest.importorskip("sentencepiece")
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_writer=made,
        vocab_size=288,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
        **{"model_type": "bpe", "remove_extra_whitespaces": False, **options},
    )
    (path / "tokenizer.model").write_bytes(made.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_ids_and_texts_are_those_of_sentencepiece(tmp_path: Path, kind: str) -> None:
    theirs = trained(tmp_path, model_type=kind)
    ours = Tokenizer.load(tmp_path)
    for text in (*PROBES, *TEXT[:2]):
        ids = ours.encode(text, add_special_tokens=False)
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours.bos_token_id == theirs.bos_id()
    assert ours.eos_token_ids == (theirs.eos_id(),)


def test_a_kind_that_transformers_reads_otherwise_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, remove_extra_whitespaces=True)
    with pytest.raises(ValueError, match=r"in another way than SentencePiece does"):
        Tokenizer.load(tmp_path)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    (tmp_path / "tokenizer.model").write_bytes(b"\xff\xffnothing")
    with pytest.raises(ValueError, match=r"tokenizer\.model: not a vocabulary"):
        Tokenizer.load(tmp_path)
