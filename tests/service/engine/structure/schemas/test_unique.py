"""``uniqueItems``: no answer has an item twice, whatever the weights; jsonschema is the oracle."""

import dataclasses
import json
from typing import Any

import jsonschema
import pytest
from serving import generation_request, toy_engine
from toys import toy_tokenizer

from service.engine.request import Finished, FinishReason, TokenGenerated
from service.engine.structure.constraint import schema_grammar
from service.engine.structure.grammars import Grammars
from service.engine.structure.schemas.reader import Reader, canonical
from service.engine.structure.schemas.unique import UNIQUE, Places, listed_values


def unique(items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "array", "uniqueItems": True, "items": items, **more}


COLOURS = ["silent", "silentWithProgress", "interactive", 'a"b\\c', "é"]
SCHEMAS: dict[str, Any] = {
    "listed": unique({"enum": COLOURS}, minItems=3),
    "all of them": unique({"enum": COLOURS}, minItems=5),
    "truths": unique({"type": ["boolean", "null"]}, minItems=3),
    "few numbers": unique({"type": "integer", "minimum": 1, "maximum": 3}, minItems=3),
    "numbers": unique({"type": "number"}, minItems=3, maxItems=6),
    "texts": unique({"type": "string", "maxLength": 2}, minItems=3, maxItems=8),
    "anything": unique({}, minItems=2, maxItems=5),
    "defined": {"$defs": {"c": {"enum": COLOURS}}, **unique({"$ref": "#/$defs/c"}, minItems=5)},
    "objects": unique(
        {
            "type": "object",
            "properties": {"a": {"type": "boolean"}, "b": {"enum": [1, 2]}},
            "required": ["a"],
            "additionalProperties": False,
        },
        minItems=3,
        maxItems=6,
    ),
    "nested": unique(unique({"enum": [1, 2, 3]}, minItems=1), minItems=2, maxItems=6),
    "property": {
        "type": "object",
        "properties": {
            "free": {"type": "array", "items": {"enum": [1]}, "minItems": 2, "maxItems": 4},
            "held": unique({"enum": ["x", "xy", "xyz"]}, minItems=2),
        },
        "required": ["free", "held"],
        "additionalProperties": False,
    },
    "chosen": {"anyOf": [unique({"type": "integer"}, minItems=2, maxItems=5), {"type": "null"}]},
    "places": {
        "type": "array",
        "uniqueItems": True,
        "prefixItems": [{"enum": [1, 2]}, {"enum": [1, 2]}],
        "items": False,
        "minItems": 2,
    },
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_item_comes_twice(name: str) -> None:
    schema, engine = SCHEMAS[name], toy_engine()
    grammar = schema_grammar(schema)
    Grammars(toy_tokenizer()).check(grammar)
    for seed in range(6):
        asked = generation_request(
            "a", (40, 50, 60), max_new_tokens=150, temperature=0.7 * seed, seed=seed
        )
        engine.submit(dataclasses.replace(asked, grammar=grammar))
        text = ""
        while not engine.is_idle:
            for event in engine.step():
                if isinstance(event, TokenGenerated | Finished):
                    text += event.text
                if isinstance(event, Finished):
                    assert event.reason is FinishReason.STOP, (event.message, text)
        jsonschema.validate(json.loads(text), schema)


def takes(grammars: Grammars, grammar: str, text: str) -> bool:
    constraint = grammars.begin(grammar)
    return all(map(constraint.accept, toy_tokenizer().encode(text))) and constraint.is_whole


@pytest.mark.parametrize(
    ("items", "texts"),
    [
        ({}, ("[1, 1.0]", "[1, true]", "[0, false]", "[null, null]", '["1", 1]', "[1e1, 10]")),
        ({}, ('[{"a": 1, "b": 2}, {"b": 2.0, "a": 1}]', "[[1], [true]]", "[[1], [1]]")),
        ({"type": "string"}, ('["a", "b"]', '["a", "a"]', '["a\\"", "a"]', r'["\u0061", "a"]')),
        ({"type": "integer"}, ("[1, 11, 111]", "[11, 1, 11]", "[]", "[0, -0]")),
        ({"enum": ["a", "ab"]}, ('["a", "ab"]', '["ab", "a"]', '["a", "a"]', '["a"]')),
    ],
)
def test_which_items_are_equal(items: Any, texts: tuple[str, ...]) -> None:
    schema = unique(items)
    grammars, grammar = Grammars(toy_tokenizer()), schema_grammar(schema)
    free = schema_grammar({**schema, "uniqueItems": False})
    for text in texts:
        fits = jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))
        assert takes(grammars, free, text) >= takes(grammars, grammar, text)
        if takes(grammars, free, text):
            assert takes(grammars, grammar, text) is fits, text


def test_more_items_than_there_are_values_is_no_schema() -> None:
    with pytest.raises(ValueError, match="minItems"):
        Grammars(toy_tokenizer()).check(schema_grammar(unique({"type": "boolean"}, minItems=3)))


def test_an_answer_that_has_to_repeat_an_item_is_an_error() -> None:
    schema = unique({"type": "string", "pattern": "^a$"}, minItems=2)
    grammars, grammar = Grammars(toy_tokenizer()), schema_grammar(schema)
    constraint = grammars.begin(grammar)
    text = toy_tokenizer().encode('["a", "a"')
    assert [constraint.accept(one) for one in text] == [True] * 8 + [False]
    assert "uniqueItems" in constraint.problem
    assert not constraint.is_whole


def test_a_negated_one_is_refused() -> None:
    for schema in ({"not": unique({})}, {"if": unique({}), "then": {"minItems": 3}}):
        with pytest.raises(ValueError, match=r"not|if"):
            Grammars(toy_tokenizer()).check(schema_grammar(schema))


def test_what_the_reader_knows_of_each_place() -> None:
    held = {UNIQUE: True}
    schema = {
        "properties": {"a": held, "b": {"$ref": "#/$defs/d"}, "p": {"type": "array"}},
        "patternProperties": {"^q": held},
        "additionalProperties": {"items": {"oneOf": [{}, held]}},
        "$defs": {"d": {"allOf": [held]}},
    }
    for text, fits in (
        ('{"a": [1, 1', True),
        ('{"a": [1, 1,', False),
        ('{"b": [1, 1]', False),
        ('{"p": [[1, 1], [1, 1]]', False),  # the pattern may fit
        ('{"z": [1, 1, [2, 1], [2, 2', False),
    ):
        read = Reader(Places(schema)).after(text.encode())
        assert (read is not None) is fits, text


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        ({"enum": [1, 1, "a"]}, [1, "a"]),
        ({"const": None}, [None]),
        ({"anyOf": [{"type": "boolean"}, {"const": "a"}]}, [False, True, "a"]),
        ({"anyOf": [{"type": "boolean"}, {"type": "string"}]}, None),
        ({"allOf": [{"type": "string"}, {"enum": ["a"]}]}, ["a"]),
        ({"type": "integer", "minimum": 0, "maximum": 2}, [0, 1, 2]),
        ({"type": "integer", "minimum": 0, "maximum": 10**9}, None),
        ({"enum": [1.5]}, None),
        ({"enum": [{}]}, None),
        ({"$ref": "#"}, None),
        ({}, None),
    ],
)
def test_which_values_are_listed(schema: dict[str, Any], values: list[Any] | None) -> None:
    assert listed_values(schema, schema) == values


def test_equal_values_have_one_form() -> None:
    assert canonical(b"1") == canonical(b"1.0") == canonical(b"10e-1") != canonical(b"true")
    assert canonical(b"1e999") == canonical(b"2" * 400) != canonical(b"-1e999")
    assert canonical(b'{"a": 1, "b": [2]}') == canonical(b'{"b": [2.0], "a": 1}')
    assert canonical(b"0") != canonical(b"false") != canonical(b"null") != canonical(b'""')
    assert canonical(b"[" * 10**5 + b"]" * 10**5) is None
