import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

from lm.text.tokenizer import Tokenizer
from trainer.data import token_files as tokens
from trainer.data.corpora.split import Split
from trainer.data.token_files import bytes_of_tokens, check_fits, encode_split
from trainer.data.tokenizer_training import train_tokenizer

SPLIT = Split(("To be,\nor not.\n", "Ay, there's the rüb.\n"), ("Words, words.\n",), "hamlet")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(SPLIT.train, 270)


def test_documents_stand_between_end_of_text_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = encode_split("plays", SPLIT, tokenizer, tmp_path)
    first, second = (tokenizer.encode(document) for document in SPLIT.train)
    assert source.train.tolist() == [0, *first, 0, *second, 0]
    assert source.validation.tolist() == [0, *tokenizer.encode(SPLIT.validation[0]), 0]
    assert source.name == "plays"


def test_the_bytes_of_all_targets_are_the_bytes_of_the_text(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source = encode_split("plays", SPLIT, tokenizer, tmp_path)
    lengths = bytes_of_tokens(tokenizer)
    assert lengths[source.train[1:]].sum() == source.train_bytes == 15 + 22
    assert lengths[source.validation[1:]].sum() == source.validation_bytes == 14


def test_an_encoding_is_made_once(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode_split("plays", SPLIT, tokenizer, tmp_path)
    monkeypatch.setattr(tokens, "_write", None)
    second = encode_split("again", SPLIT, tokenizer, tmp_path)
    assert np.array_equal(first.train, second.train)
    assert isinstance(second.train, np.memmap)
    assert not second.train.flags.writeable


def test_another_text_split_or_tokenizer_is_encoded_anew(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    joined = dataclasses.replace(SPLIT, train=("".join(SPLIT.train),))
    moved = dataclasses.replace(SPLIT, train=SPLIT.train[:1], validation=SPLIT.train[1:])
    other = train_tokenizer(SPLIT.train, 265)
    encode_split("plays", SPLIT, tokenizer, tmp_path)
    encode_split("plays", joined, tokenizer, tmp_path)
    encode_split("plays", moved, tokenizer, tmp_path)
    encode_split("plays", SPLIT, other, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("fault", ["train.bin", "meta.json"])
def test_a_damaged_or_half_written_cache_is_replaced(
    tokenizer: Tokenizer, tmp_path: Path, fault: str
) -> None:
    expected = encode_split("plays", SPLIT, tokenizer, tmp_path).train.tolist()
    (entry,) = tmp_path.iterdir()
    (entry / fault).write_bytes(b"{")
    assert encode_split("plays", SPLIT, tokenizer, tmp_path).train.tolist() == expected
    assert [path.name for path in tmp_path.iterdir()] == [entry.name]


def test_ids_take_two_bytes_where_they_fit_and_four_where_not(tmp_path: Path) -> None:
    for size, dtype in ((1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)):
        vocabulary = {f"t{index}": index for index in range(size - 1)} | {"<end>": size - 1}
        backend = Backend(models.WordLevel(vocabulary, unk_token="t0"))
        tokenizer = Tokenizer(backend, bos_token_id=None, eos_token_ids=[size - 1])
        source = encode_split("words", Split(("t7",), ("t8",), ""), tokenizer, tmp_path)
        assert source.train.dtype == dtype
        assert source.train.tolist() == [size - 1, 7, size - 1]


def test_what_does_not_fit_the_model_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = encode_split("plays", SPLIT, tokenizer, tmp_path)
    check_fits([source], tokenizer, length=8, vocab_size=270)
    with pytest.raises(ValueError, match=r"has 270 ids, model\.vocab_size is 269"):
        check_fits([source], tokenizer, length=8, vocab_size=269)
    with pytest.raises(
        ValueError, match=r"'plays': \d+ training tokens do not fill one sequence of 500"
    ):
        check_fits([source], tokenizer, length=500, vocab_size=270)
