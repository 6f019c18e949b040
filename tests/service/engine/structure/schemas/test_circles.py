"""Schemas that lead back to themselves with keys beside the reference, against jsonschema."""

import json
from typing import Any

import jsonschema
import pytest
from toys import toy_tokenizer

from service.engine.structure.constraint import schema_grammar
from service.engine.structure.grammars import Grammars
from service.engine.structure.schemas.circles import resolved, without_circles


def closed(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


NODE = closed(v={"type": "integer"}, next={"$ref": "#/$defs/node", "required": ["v"]})
TREE = {
    "type": "object",
    "additionalProperties": {},
    "anyOf": [{"$ref": "#/$defs/leaf"}, {"$ref": "#/$defs/branch"}],
    "$defs": {
        "leaf": {**closed(v={"type": "integer"}), "required": ["v"]},
        "branch": {**closed(of={"type": "array", "items": {"$ref": "#"}}), "required": ["of"]},
    },
}
BY_NAME = {
    "$defs": {
        "map": {
            "properties": {"a": {"$ref": "#/$defs/one"}},
            "patternProperties": {"^[a-z]*": {"$ref": "#/$defs/one"}},
        },
        "one": closed(m={"$ref": "#/$defs/map", "type": "object"}, n={"type": "null"}),
    },
    "$ref": "#/$defs/map",
    "type": "object",
}
BOTH = {
    "$defs": {
        "a": {"type": "object", "properties": {"x": {"$ref": "#/$defs/a"}, "y": {"type": "null"}}},
        "b": {
            "allOf": [{"$ref": "#/$defs/a"}, {"properties": {"x": {"$ref": "#/$defs/b"}}}],
            "required": ["y"],
        },
    },
    "$ref": "#/$defs/b",
    "additionalProperties": {"type": ["object", "null"]},
}
CASES: tuple[tuple[dict[str, Any], tuple[Any, ...]], ...] = (
    (
        {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
        ({}, {"v": 1}, {"next": {}}, {"next": {"v": 1}}, {"next": {"v": 1, "next": {}}}),
    ),
    (TREE, ({"v": 1}, {"of": [{"v": 1}, {"of": []}]}, {}, {"of": [{}]}, {"of": [1]}, {"v": "a"})),
    (BY_NAME, ({}, {"a": {"n": None}}, {"b": {"m": {"c": {}}}}, {"a": {"m": 1}}, {"b": {"m": 1}})),
    (BOTH, ({"y": None}, {}, {"x": {}, "y": None}, {"x": {"y": None}, "y": None})),
    (
        {"type": "array", "items": {"$ref": "#", "maxItems": 1}, "title": "a"},
        ([], [[], [[]]], [[[]], []], [[[], []]], [1]),
    ),
)


def takes(grammars: Grammars, grammar: str, value: Any) -> bool:
    constraint = grammars.begin(grammar)
    return all(constraint.accept(one) for one in toy_tokenizer().encode(json.dumps(value))) and (
        constraint.is_whole
    )


@pytest.mark.parametrize(("schema", "values"), CASES)
def test_what_a_schema_allows_that_leads_back_to_itself(
    schema: dict[str, Any], values: tuple[Any, ...]
) -> None:
    grammars, grammar = Grammars(toy_tokenizer()), schema_grammar(schema)
    grammars.check(grammar)
    made = without_circles(schema)
    for value in values:
        fits = jsonschema.Draft202012Validator(schema).is_valid(value)
        assert takes(grammars, grammar, value) is fits, value
        assert jsonschema.Draft202012Validator(made).is_valid(value) is fits, value


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"$ref": "#/properties/a", "type": "object"}}},
        {"$defs": {"a": {"$id": "http://x/y", "$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}},
        {"type": "object"},
    ],
)
def test_other_schemas_stay_as_they_are(schema: dict[str, Any]) -> None:
    assert without_circles(schema) == schema


def test_a_reference_that_means_itself_does_not_go_on_forever() -> None:
    schema = {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}], "type": "object"}}}
    assert without_circles({**schema, "$ref": "#/$defs/a"})["$defs"] == schema["$defs"]


def test_names_within_references_are_read() -> None:
    root = {"$defs": {"a/b~": {"type": "null"}}, "allOf": [{"const": 1}]}
    assert resolved(root, "#/$defs/a~1b~0") == {"type": "null"}
    assert resolved(root, "#/allOf/0") == {"const": 1}
    assert resolved(root, "#") == root
    assert resolved(root, "#/allOf/1") is resolved(root, "other.json") is None
