"""Conditions of schemas, against jsonschema: on all small objects, and by chance on texts."""

import itertools
import json
from typing import Any

import jsonschema
import pytest
from toys import toy_tokenizer

from service.engine.structure.constraint import schema_grammar
from service.engine.structure.grammars import Grammars
from service.engine.structure.schemas.conditions import without_conditions

ABC: dict[str, Any] = {
    "a": {"enum": ["x", "y", "zz"]},
    "b": {"type": "boolean"},
    "c": {"type": ["string", "null"]},
}
KINDS: tuple[dict[str, Any], ...] = (
    {"dependencies": {"a": ["b"]}},
    {"dependencies": {"a": ["b", "c"], "b": ["c"]}},
    {"dependentRequired": {"a": ["c"], "b": ["c"], "c": []}},
    {"dependencies": {"a": {"properties": {"c": {"enum": ["x"]}}}}},
    {"dependentSchemas": {"b": {"required": ["a"]}, "c": {"properties": {"b": False}}}},
    {"dependencies": {"a": {"required": ["c"]}, "b": True}},
    {"not": {"required": ["a"]}},
    {"not": {"required": ["a", "b"]}},
    {"not": {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}},
    {"not": {"allOf": [{"required": ["a"]}, {"not": {"required": ["b"]}}]}},
    {"not": {"properties": {"a": {"const": "x"}}, "required": ["a"]}},
    {"not": {"properties": {"b": {"const": True}}}},
    {"not": {"properties": {"c": {"enum": ["x", "zz"]}}}},
    {"not": {"properties": {"c": {"type": "null"}}}},
    {"if": {"properties": {"a": {"const": "x"}}}, "then": {"required": ["b"]}},
    {"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"required": ["c"]}},
    {"if": {"properties": {"a": {"const": "x"}}, "required": ["a"]}, "else": {"required": ["c"]}},
    {"if": False, "else": {"required": ["c"]}},
    {"propertyNames": {"enum": ["a", "c"]}},
    {"propertyNames": {"type": "string"}},
    {"dependencies": {"a": ["b"]}, "not": {"required": ["c"]}, "if": True, "then": True},
)
VALUES = {"a": ("x", "zz"), "b": (True, False), "c": ("", "x", "xx", "zz", None)}


def objects() -> list[dict[str, Any]]:
    """All objects with some of the properties, each with one of its values."""
    ways = [[(name, value) for value in values] + [None] for name, values in VALUES.items()]
    return [dict(pair for pair in chosen if pair) for chosen in itertools.product(*ways)]


def takes(grammars: Grammars, grammar: str, value: Any) -> bool:
    constraint = grammars.begin(grammar)
    text = json.dumps(value, ensure_ascii=False)
    return all(constraint.accept(one) for one in toy_tokenizer().encode(text)) and (
        constraint.is_whole
    )


@pytest.mark.parametrize("is_closed", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=json.dumps)
def test_what_a_condition_allows(kind: dict[str, Any], is_closed: bool) -> None:
    schema = {"type": "object", "properties": ABC, "additionalProperties": not is_closed, **kind}
    grammars, grammar = Grammars(toy_tokenizer()), schema_grammar(schema)
    grammars.check(grammar)
    for value in objects():
        fits = jsonschema.Draft202012Validator(schema).is_valid(value)
        fits &= jsonschema.Draft7Validator(schema).is_valid(value)
        assert takes(grammars, grammar, value) is fits, value


@pytest.mark.parametrize(
    ("schema", "texts"),
    [
        ({"not": {"type": ["string", "null"]}}, ("a", None, 1, True, [], {})),
        ({"not": {"const": "abc"}}, ("", "ab", "abc", "abcd", "b", "]", None, 3, [])),
        ({"not": {"enum": ["a", "ab", "", None, True]}}, ("", "a", "ab", "b", None, True, False)),
        ({"not": {"enum": ["-", "]", "^", "é"]}}, ("-", "]", "^", "é", "a", "--", "è")),
        ({"enum": [1, 2, True], "not": {"const": 1}}, (1, 2, True)),
        ({"type": "string", "uniqueItems": True}, ("a", 1)),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, ([], [1], [1, 1])),
        ({"not": False}, (1, "a")),
    ],
)
def test_what_must_not_be(schema: dict[str, Any], texts: tuple[Any, ...]) -> None:
    grammars, grammar = Grammars(toy_tokenizer()), schema_grammar(schema)
    grammars.check(grammar)
    for value in texts:
        fits = jsonschema.Draft202012Validator(schema).is_valid(value)
        assert takes(grammars, grammar, value) is fits, value


def test_a_schema_that_leads_back_to_itself_may_have_conditions() -> None:
    schema = {
        "definitions": {
            "node": {
                "type": "object",
                "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/definitions/node"}},
                "dependencies": {"next": ["v"]},
                "additionalProperties": False,
            }
        },
        "$ref": "#/definitions/node",
    }
    grammars, grammar = Grammars(toy_tokenizer()), schema_grammar(schema)
    grammars.check(grammar)
    assert takes(grammars, grammar, {"v": 1, "next": {"v": 2, "next": {}}})
    assert not takes(grammars, grammar, {"v": 1, "next": {"next": {}}})


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {"pattern": "a"}},
        {"not": {"type": "integer"}},
        {"not": {"const": 3}},
        {"not": {"const": "a\\b"}},
        {"not": {"$ref": "#/$defs/x"}, "$defs": {"x": {}}},
        {"if": {"minLength": 3}, "then": {"maxLength": 5}},
        {"propertyNames": {"maxLength": 3}},
        {"dependencies": {"a": "b"}},
    ],
)
def test_what_cannot_be_said_is_refused_by_name(schema: dict[str, Any]) -> None:
    assert without_conditions(schema) == schema
    key = next(key for key in ("not", "if", "propertyNames", "dependencies") if key in schema)
    with pytest.raises(ValueError, match=key):
        Grammars(toy_tokenizer()).check(schema_grammar(schema))
