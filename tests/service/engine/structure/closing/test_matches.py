"""Short matches of patterns, with Python's ``re`` as the judge of each."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.structure.closing.matches import MAX_ENDS, Matches, matches_of, short_matches
from service.engine.structure.constraint import regex_grammar, schema_grammar

PATTERNS = {
    r"^[^@]+@[^@]+\.[^@]+$": "a@a.a",
    r"^\S+@\S+\.\S+$": "a@a.a",
    r"^https?://.+\.[a-z]{2,}$": "http://a.aa",
    r"^.+, .+$": "a, a",
    r"(foo|bar)*baz": "baz",
    r"^\+?[1-9]\d{1,14}$": "10",
    r"^#[0-9a-fA-F]{6}$": "#aaaaaa",
    r"^[ж-я]+$": "ж",
    r"^[^\d\s]\D\W\s$": "aa- ",
    r"[^a-z\x20-\x2f]": "0",
    r"(?:ab?){2}(?P<n>c)": "aac",
    r"a{0}b": "b",
    r"[^x]?[^a]": "0",
}
NOT_UNDERSTOOD = [
    r"^(?!x).+$",
    "[[:alpha:]]",
    r"(a)\1",
    "a{49}",
    "a{100000}",
    "(",
    "a" * 1001,
    "(" * 600 + ")" * 600,
    "[" + "\\x00-\\U0010ffff" + "&&[a]]",
    r"[^\x00-\U0010ffff]",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_shortest_match_comes_first_and_all_match(pattern: str) -> None:
    found = short_matches(pattern)
    assert found[0] == PATTERNS[pattern]
    assert all(re.search(pattern, text) for text in found)


@pytest.mark.parametrize("pattern", NOT_UNDERSTOOD)
def test_what_is_not_understood_gives_nothing(pattern: str) -> None:
    assert short_matches(pattern) == ()


def test_a_property_of_unicode_is_taken_for_a_letter() -> None:
    assert short_matches(r"^\p{L}+-[\p{Lu}]$") == ("a-a",)


@given(st.text(alphabet="ab[](){}?*+|.^$\\-,0123dws", max_size=12))
def test_any_pattern_gives_texts_that_match_or_nothing(pattern: str) -> None:
    for text in short_matches(pattern):
        assert re.search(pattern, text) or "^" in pattern or "$" in pattern or "\\" in pattern


def test_the_ends_of_a_schemas_matches_are_written_as_in_json() -> None:
    schema = {"items": {"patternProperties": {'^."$': {"pattern": "^x@$"}}}}
    assert matches_of(schema_grammar(schema)) == Matches((b"@", b'\\"', b"x@", b'a\\"'), b'"')


def test_the_ends_of_a_regex_are_written_as_they_are() -> None:
    assert matches_of(regex_grammar('a/"')) == Matches((b'"', b'/"', b'a/"'))


def test_a_grammar_without_patterns_has_none() -> None:
    assert matches_of(schema_grammar({"type": "string"})) == Matches()


def test_there_are_few_of_them() -> None:
    schema = {"anyOf": [{"pattern": f"^{n:040}$"} for n in range(500)]}
    assert len(matches_of(schema_grammar(schema)).ends) == MAX_ENDS
