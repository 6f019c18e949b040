"""Schemas as they come, and what the library makes of them."""

import json
import re
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import toy_tokenizer

from service.engine.structure.constraint import regex_grammar, schema_grammar
from service.engine.structure.grammars import Grammars
from service.engine.structure.schemas.rewriting import KNOWN_FORMATS, rewritten, with_ascii_digits

pytest.importorskip("llguidance")


def takes(grammar: str, text: str) -> bool:
    """Whether a grammar allows a text as a whole."""
    grammars = Grammars(toy_tokenizer())
    grammars.check(grammar)
    constraint = grammars.begin(grammar)
    return all(constraint.accept(one) for one in [*toy_tokenizer().encode(text), 0])


@pytest.mark.parametrize("name", sorted(KNOWN_FORMATS))
def test_known_formats_are_the_librarys(name: str) -> None:
    grammar = schema_grammar({"type": "string", "format": name})
    Grammars(toy_tokenizer()).check(grammar)
    assert not takes(grammar, '"no such thing!"')


@pytest.mark.parametrize("name", ["phone", "color", "int32", "binary", "regex", "iri"])
def test_other_formats_are_annotations(name: str) -> None:
    schema = {"type": "object", "properties": {"format": {"type": "string", "format": name}}}
    assert takes(schema_grammar(schema), '{"format": "anything"}')
    assert not takes(schema_grammar(schema), '{"format": 5}')


def test_one_of_is_any_of_where_nothing_else_can_be_proved() -> None:
    schema = {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}, {"type": "null"}]}
    for text, fits in (('"ab"', True), ('"abcdef"', True), ("null", True), ("5", False)):
        assert takes(schema_grammar(schema), text) is fits


def test_properties_without_a_type_give_an_object_where_that_is_implied() -> None:
    schema = {"properties": {"a": {"properties": {"b": {"type": "integer"}}}}, "required": ["a"]}
    implied = schema_grammar(schema, implies_objects=True)
    assert takes(implied, '{"a": {"b": 1}}')
    assert not takes(implied, "5")
    assert not takes(implied, '{"a": 5}')
    assert takes(schema_grammar(schema), "5")


@pytest.mark.parametrize("pattern", [r"\d+", r"[\d.]+", r"x?\d{2}", r"[^\D]+"])
def test_digits_are_ascii(pattern: str) -> None:
    for grammar in (regex_grammar(pattern), schema_grammar({"pattern": f"^{pattern}$"})):
        quote = '"' if grammar != regex_grammar(pattern) else ""
        assert takes(grammar, f"{quote}12{quote}")
        if "D" not in pattern:
            assert not takes(grammar, f"{quote}٣٤{quote}")


def test_digits_in_patterns_of_names_are_ascii() -> None:
    named = {r"^\d$": {"type": "integer"}}
    grammar = schema_grammar(
        {"type": "object", "patternProperties": named, "additionalProperties": False}
    )
    assert takes(grammar, '{"3": 1}')
    assert not takes(grammar, '{"٣": 1}')


@given(st.lists(st.sampled_from([r"\d", r"\D", "[", "]", "^", "a", r"\[", r"\]", r"\\"])))
def test_a_rewritten_expression_means_the_same_on_ascii(parts: list[str]) -> None:
    pattern = "".join(parts)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of sets in sets, which Python has not
            before = re.compile(pattern, re.ASCII)
    except (re.error, FutureWarning):
        return
    after = re.compile(with_ascii_digits(pattern), re.ASCII)
    for text in ("", "1", "a", "[", "]", "12", "a1", "^", "\\"):
        assert bool(before.fullmatch(text)) is bool(after.fullmatch(text))


def test_what_is_data_is_left_alone() -> None:
    schema: dict[str, Any] = {"enum": [{"format": "phone", "pattern": r"\d"}], "default": r"\d"}
    assert rewritten(schema) == schema
    assert json.dumps(rewritten({"items": [{"format": "phone"}]})) == '{"items": [{}]}'
