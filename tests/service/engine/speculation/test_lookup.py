import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.speculation.lookup import NgramIndex, lookup


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abcd", (0, "")),
        ("", (0, "")),
        ("aa", (0, "")),
        ("aab a", (0, "")),
        ("abcdefXab", (2, "cdefX")),
        ("abcXabYab", (2, "YabYa")),
        ("1234x234y 1234", (4, "x234y")),
        ("1234x934y 234", (3, "x934y")),
        ("xababab", (4, "ababa")),
        ("aaaaa", (4, "aaaaa")),
    ],
    ids=str,
)
def test_the_last_place_of_the_longest_suffix_is_continued(
    text: str, expected: tuple[int, str]
) -> None:
    length, continuation = lookup([ord(letter) for letter in text], 5)
    assert (length, "".join(map(chr, continuation))) == expected


@settings(derandomize=True, deadline=None, max_examples=200)
@given(pieces=st.lists(st.lists(st.integers(0, 2), max_size=8), max_size=6))
def test_the_index_of_a_growing_text_answers_as_the_definition(pieces: list[list[int]]) -> None:
    index = NgramIndex()
    text: list[int] = []
    for piece in pieces:
        index.extend(piece)
        text += piece
        assert index.num_tokens == len(text)
        for num_tokens in (0, 1, 8):
            assert index.lookup(num_tokens) == lookup(text, num_tokens)
