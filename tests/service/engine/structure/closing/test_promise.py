"""A structured answer ends whole where it fits into its budget, whatever the weights write."""

import dataclasses
import json
import re
from typing import Any

import jsonschema
import pytest
import torch
from serving import toy_engine
from serving.structures import PROMPT, answer, ask, closed
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel
from tokenizers.models import WordLevel
from toys import toy_tokenizer

from lm.text.tokenizer import Tokenizer
from service.engine.request import FinishReason
from service.engine.structure.constraint import regex_grammar, schema_grammar
from service.engine.structure.grammars import Grammars

CONTEXT = 256

STRINGS = {"type": "array", "items": {"type": "string"}, "maxItems": 3}
TREE = {
    "$defs": {
        "node": {
            "anyOf": [
                {"type": "null"},
                closed(
                    {"v": {"type": "integer"}, "l": {"$ref": "#/$defs/node"}, "r": STRINGS},
                ),
            ]
        }
    },
    "$ref": "#/$defs/node",
}
SCHEMAS: dict[str, Any] = {
    "person": closed({"name": {"type": "string"}, "age": {"type": "integer"}}),
    "nested": closed({"a": STRINGS, "b": closed({"c": {"type": "integer"}, "d": STRINGS})}, ["a"]),
    "array": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 2},
    "numbers": {
        "type": "array",
        "minItems": 3,
        "items": closed({"x": {"type": "number", "exclusiveMinimum": 0.5, "maximum": 0.6}}),
    },
    "enum": {"enum": ["abcdefghijk", "k", 12345]},
    "constant": {"const": "hello world"},
    "long": {"type": "string", "minLength": 20},
    "short": {"type": "string", "maxLength": 5},
    "pattern": closed({"p": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{3}$"}, "q": STRINGS}),
    "email": closed({"e": {"type": "string", "pattern": "^[^@]+@[^@]+\\.[^@]+$"}, "q": STRINGS}),
    "no space": {"type": "string", "pattern": "^\\S+@\\S+\\.\\S+$"},
    "url": {"type": "array", "items": {"type": "string", "pattern": "^https?://.+\\.[a-z]{2,}$"}},
    "comma": closed({"place": {"type": "string", "pattern": "^.+, .+$"}}),
    "quoted": {"type": "string", "pattern": '^[^"]+"[^"]+"$'},
    "keys": {
        "type": "object",
        "patternProperties": {"^[^_]+_id$": {}},
        "minProperties": 1,
        "additionalProperties": False,
    },
    "loop": {"type": "string", "pattern": "^(foo|bar)+baz$"},
    "branches": {
        "anyOf": [
            closed({"kind": {"const": "alpha"}, "v": {"type": "string"}}),
            {"type": "boolean"},
            {"type": "array", "items": {"type": "integer"}, "minItems": 2},
        ]
    },
    "tree": TREE,
    "time": closed({"d": {"type": "string", "format": "date-time"}}),
    "choice": closed(
        {"big": closed({f"k{i}": {"type": "string", "minLength": 5} for i in range(8)})}, []
    ),
    "any object": {"type": "object"},
    "anything": {},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 1000},
    "float": {"type": "number"},
}
MINIMA = {
    "person": 22,
    "enum": 3,
    "constant": 13,
    "long": 22,
    "short": 2,
    "branches": 4,
    "tree": 4,
    "choice": 2,
    "any object": 2,
    "anything": 1,
    "multiple": 4,
    "float": 1,
}
"""Tokens of the shortest answers, counted by hand: a token of the toy tokenizer is a character."""


def shortest(grammar: str) -> int:
    """Tokens of the shortest answer that is known."""
    closing = Grammars(toy_tokenizer()).begin(grammar, 10**6).shortest
    assert closing is not None
    return closing


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_is_whole_from_the_shortest_budget_on(name: str) -> None:
    schema, engine = SCHEMAS[name], toy_engine()
    grammar = schema_grammar(schema)
    fewest = shortest(grammar)
    assert fewest <= MINIMA.get(name, fewest)
    for more in (0, 1, 9):
        for seed, temperature in enumerate((0.0, 2.0)):
            asked = ask(grammar, fewest + more, temperature=temperature, seed=seed)
            text, reason, count = answer(engine, asked)
            jsonschema.validate(json.loads(text), schema)
            assert (reason, count <= fewest + more) == (FinishReason.STOP, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_is_whole_whatever_the_budget(name: str) -> None:
    schema, engine = SCHEMAS[name], toy_engine()
    grammar = schema_grammar(schema)
    fewest = shortest(grammar)
    for budget in range(fewest, min(fewest + 60, CONTEXT - len(PROMPT))):
        for seed in range(4):
            asked = ask(grammar, budget, temperature=0.5 * seed, seed=budget)
            text, reason, _ = answer(engine, asked)
            jsonschema.validate(json.loads(text), schema)
            assert reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("pattern", "fewest"),
    [
        (r"[a-c]{3}-[0-9]{2,4}", 6),
        (r"(yes|no)", 2),
        (r"(foo|bar)+baz", 6),
        (r".*x", 1),
        (r"[a-z ]+\.", 2),
        (r'("|a)*b', 1),
        (r"[0-9]+", 1),
        (r"[a-z]*foo", 3),
        (r"[^@]+@[^@]+\.[^@]+", 5),
        (r".+, .+", 3),
        (r"https?://.+\.[a-z]{2,}", 11),
        (r"(, [a-z]+|#[0-9a-f]+)*\.", 1),
    ],
)
def test_a_regex_is_matched_within_the_budget(pattern: str, fewest: int) -> None:
    engine, grammar = toy_engine(), regex_grammar(pattern)
    known = shortest(grammar)
    assert fewest <= known <= fewest + 8
    for budget in (known, known + 1, known + 12):
        for seed in range(2):
            asked = ask(grammar, budget, temperature=float(seed), seed=seed)
            text, reason, _ = answer(engine, asked)
            assert re.fullmatch(pattern, text)
            assert reason is FinishReason.STOP


def test_the_end_of_the_context_is_a_budget_too() -> None:
    engine, schema = toy_engine(), SCHEMAS["person"]
    request = ask(schema_grammar(schema), 10_000, temperature=2.0, seed=1)
    prompt = PROMPT * ((CONTEXT - 30) // len(PROMPT))
    text, reason, _ = answer(engine, dataclasses.replace(request, prompt_ids=prompt))
    jsonschema.validate(json.loads(text), schema)
    assert reason is FinishReason.STOP


def test_a_budget_below_the_shortest_answer_ends_by_length() -> None:
    asked = ask(schema_grammar(SCHEMAS["person"]), 21, temperature=0.0, seed=0)
    _, reason, count = answer(toy_engine(), asked)
    assert (reason, count) == (FinishReason.LENGTH, 21)


def test_where_no_end_is_found_an_answer_goes_on_as_it_may() -> None:
    """``f`` has to come out of 26 letters that all lead to where they come from."""
    pattern = "[a-z]*f(oooooooo){7}"
    grammar = regex_grammar(pattern)
    assert Grammars(toy_tokenizer()).begin(grammar, 90).shortest is None
    text, reason, _ = answer(toy_engine(), ask(grammar, 90, temperature=1.0, seed=0))
    assert re.fullmatch(pattern, text) or reason is FinishReason.LENGTH


def test_with_enough_left_a_token_is_drawn_as_without_a_budget() -> None:
    """What the budget does not rule out it does not change."""
    engine, grammar = toy_engine(), schema_grammar(SCHEMAS["person"])
    asked = ask(grammar, 120, temperature=0.7, seed=5)
    with_budget = answer(engine, asked)
    begin = engine.grammars.begin
    engine.grammars.begin = lambda grammar, *_: begin(grammar)  # type: ignore[method-assign]
    without = answer(engine, asked)
    shared = [a == b for a, b in zip(with_budget[0], without[0], strict=False)]
    assert all(shared[: 120 - 30])
    assert with_budget[1] is FinishReason.STOP


def test_a_vocabulary_of_words_alone_promises_nothing_and_breaks_nothing() -> None:
    backend = Backend(WordLevel({"[UNK]": 0, "yes": 1, "no": 2, "nono": 3}, "[UNK]"))
    backend.decoder = ByteLevel()
    grammars = Grammars(Tokenizer(backend, bos_token_id=None, eos_token_ids=(0,)))
    constraint = grammars.begin(regex_grammar("(yes|no)"), 1)
    logits = torch.zeros(4)
    constraint.restrict(logits)
    token_id = constraint.choose(logits, lambda row: int(row.argmax()))
    assert token_id == 1
    assert constraint.accept(token_id)
    assert constraint.is_whole
