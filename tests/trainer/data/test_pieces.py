import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data import tokenizer_training
from trainer.data.pieces import pieces
from trainer.data.tokenizer_training import train_tokenizer

TEXTS = st.text("ab \n", max_size=200)


@given(text=TEXTS, limit=st.integers(1, 40))
def test_pieces_join_to_the_text_and_keep_the_limit(text: str, limit: int) -> None:
    made = list(pieces(text, limit))
    assert "".join(made) == text
    assert all(len(piece) <= limit for piece in made)


def test_a_cut_is_made_at_a_line_break_between_two_words_where_there_is_one() -> None:
    assert next(pieces("one two\nsix seven\n\n eight", 16)) == "one two\n"
    assert next(pieces("one two six", 9)) == "one two"
    assert next(pieces("onetwosix", 4)) == "onet"


def test_a_byte_level_vocabulary_cuts_pieces_as_the_whole() -> None:
    text = "To be,\n  or not.\n\nThat is 12\n\tthe question\n" * 40
    tokenizer = train_tokenizer([text], 300)
    whole = tokenizer.encode(text)
    for limit in (64, 200):
        assert [one for part in pieces(text, limit) for one in tokenizer.encode(part)] == whole


def test_a_tokenizer_is_the_same_learnt_from_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "To be,\n  or not.\n\nThat is 12\n\tthe question\n" * 40
    monkeypatch.setattr(tokenizer_training, "_PIECE_CHARACTERS", 1 << 20)
    whole = train_tokenizer([text], 300)
    monkeypatch.setattr(tokenizer_training, "_PIECE_CHARACTERS", 64)
    assert train_tokenizer([text], 300).fingerprint == whole.fingerprint


_MEASURE = """
import resource
from trainer.data.tokenizer_training import train_tokenizer

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

text = "".join(f"line {i % 5003} of a text\\n" for i in range(200_000))
before = peak()
train_tokenizer([text], 400)
print((peak() - before) * 1024 / len(text))
"""


def test_learning_takes_little_memory_a_byte_of_text() -> None:
    made = subprocess.run(
        [sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=True
    )
    assert float(made.stdout) < 12.0  # from one string it is over 90
