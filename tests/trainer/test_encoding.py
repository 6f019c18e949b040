from collections.abc import Sequence

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

from lm.tokenizer import Tokenizer
from trainer import encoding
from trainer.encoding import encode_documents, separator_id
from trainer.tokenizer_training import END_OF_TEXT, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["To be,\nor not.\n", "Ay, there's the rub.\n"], 270)


def encoded(tokenizer: Tokenizer, documents: Sequence[str]) -> tuple[list[int], int]:
    """Ids of documents, and the characters that were reported on the way."""
    told: list[int] = []
    chunks = list(encode_documents(documents, tokenizer, 0, told.append))
    return [token_id for chunk in chunks for token_id in chunk], sum(told)


def test_separators_stand_before_between_and_after_documents(tokenizer: Tokenizer) -> None:
    first, second = tokenizer.encode("To be"), tokenizer.encode("not")
    assert encoded(tokenizer, ["To be", "not"]) == ([0, *first, 0, *second, 0], 8)


def test_a_special_token_written_out_in_a_text_is_text(tokenizer: Tokenizer) -> None:
    text = f"print('{END_OF_TEXT}')"
    token_ids, _ = encoded(tokenizer, [text])
    assert token_ids.count(0) == 2
    assert tokenizer.decode(token_ids) == text
    assert tokenizer.encode(END_OF_TEXT) == [0]


def test_long_documents_are_encoded_in_pieces_of_whole_lines(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_PIECE_CHARACTERS", 16)
    documents = ["short\nlines\nhere\n" * 9, "x" * 50]
    token_ids, told = encoded(tokenizer, documents)
    assert tokenizer.decode(token_ids) == "".join(documents)
    assert told == sum(map(len, documents))


def test_a_tokenizer_without_an_end_of_text_is_refused() -> None:
    backend = Backend(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer = Tokenizer(backend, bos_token_id=None, eos_token_ids=[])
    with pytest.raises(ValueError, match="no end-of-text token"):
        separator_id(tokenizer)


def test_the_end_of_text_separates_even_where_a_chat_ends_with_another_token() -> None:
    backend = Backend(models.WordLevel({END_OF_TEXT: 0, "<|im_end|>": 1}, unk_token=END_OF_TEXT))
    chat = Tokenizer(backend, bos_token_id=1, eos_token_ids=[1])
    assert separator_id(chat) == 0
