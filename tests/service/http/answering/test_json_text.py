"""Values are counted before any is made, and what cannot be read is said to be so."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.answering.json_text import (
    TooManyValues,
    Unreadable,
    num_values_at_most,
    read_json,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


def num_values(value: object) -> int:
    """Values and keys, the slow way."""
    match value:
        case dict():
            return 1 + len(value) + sum(map(num_values, value.values()))
        case list():
            return 1 + sum(map(num_values, value))
        case _:
            return 1


@given(value=VALUES, ascii_=st.booleans())
def test_no_text_has_more_values_than_are_counted(value: object, ascii_: bool) -> None:
    content = json.dumps(value, ensure_ascii=ascii_).encode(errors="surrogatepass")
    most = num_values_at_most(content)
    assert num_values(value) <= most <= 2 * num_values(value)
    assert num_values_at_most(content, enough=most) >= most


def test_what_stands_in_strings_is_not_counted() -> None:
    content = json.dumps({"prompt": 'a, "b": [{c}], \\' * 10_000}).encode()
    assert num_values_at_most(content) == 3
    assert read_json(content, 10)["prompt"].startswith('a, "b"')


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"[" + b"1," * 9999 + b"1]", TooManyValues, "more than 5000 values"),
        (b"[" * 3000, Unreadable, "nested too deeply"),
        (b"1" * 5000, Unreadable, "too many digits"),
        (b'"\xff"', Unreadable, "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), Unreadable, "not UTF-8"),
    ],
    ids=["values", "deep", "digits", "bytes", "utf-16"],
)
def test_what_is_not_read_says_why(content: bytes, kind: type[Unreadable], said: str) -> None:
    with pytest.raises(kind, match=said):
        read_json(content, 5000)
