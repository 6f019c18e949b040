import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.text.tokenizer import Tokenizer
from trainer.data.tokenizer_training import END_OF_TEXT, train_tokenizer

TEXTS = ["To be, or not to be: that is the question.\n" * 20, "What is 1234 + 77?\n" * 20]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 280)


@given(text=st.text().filter(lambda text: END_OF_TEXT not in text))
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    text = text.encode(errors="ignore").decode()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(content=st.binary())
def test_any_bytes_have_ids(tokenizer: Tokenizer, content: bytes) -> None:
    by_byte = {tokenizer.bytes_of(token_id): token_id for token_id in range(280)}
    token_ids = [by_byte[bytes([byte])] for byte in content]
    assert b"".join(tokenizer.bytes_of(token_id) for token_id in token_ids) == content


def test_the_end_of_text_is_id_0_and_begins_and_ends_texts(tokenizer: Tokenizer) -> None:
    assert tokenizer.backend.id_to_token(0) == END_OF_TEXT
    assert tokenizer.bos_token_id == 0
    assert tokenizer.eos_token_ids == (0,)
    assert tokenizer.special_token_ids == {0}


def test_digits_are_tokens_of_their_own(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("1234")) == 4


def test_merges_are_learnt_from_the_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 280
    assert len(tokenizer.encode(" question")) < len(" question")


def test_a_text_too_small_for_the_vocabulary_gives_a_smaller_one() -> None:
    assert train_tokenizer(["ab"], 1024).vocab_size == 258


def test_training_twice_gives_the_same_tokenizer(tokenizer: Tokenizer) -> None:
    assert train_tokenizer(TEXTS, 280).fingerprint == tokenizer.fingerprint
