"""An answer whose strings have a format ends whole however many tokens it may have."""

import json
import re

import jsonschema
import pytest
from serving import toy_engine
from serving.structures import answer, ask, closed
from toys import toy_config, toy_decoder

from service.engine.request import FinishReason
from service.engine.structure.constraint import schema_grammar

SHAPES = {
    "email": r"\S.*@.+",
    "date": r"\d{4}-\d\d-\d\d",
    "date-time": r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d.*",
    "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:.*",
    "ipv4": r"(\d{1,3}\.){3}\d{1,3}",
    "hostname": r"[A-Za-z0-9.-]+",
}
CONTEXT = 520


def check(name: str, budgets: tuple[int, ...], num_seeds: int) -> None:
    """Ask for the format after a free string and in it alone."""
    decoder = toy_decoder(0, toy_config(max_position_embeddings=CONTEXT)).double()
    engine, form = toy_engine(decoder), {"type": "string", "format": name}
    for schema in (closed({"name": {"type": "string"}, "it": form}), closed({"it": form})):
        grammar = schema_grammar(schema)
        for budget in budgets:
            for seed in range(num_seeds):
                asked = ask(grammar, budget, temperature=0.5 + 0.5 * (seed % 3), seed=seed)
                text, reason, _ = answer(engine, asked)
                value = json.loads(text)
                jsonschema.validate(value, schema)
                assert re.fullmatch(SHAPES[name], value["it"], re.DOTALL), value
                assert reason is FinishReason.STOP


@pytest.mark.parametrize("name", SHAPES)
def test_a_format_is_whole_far_from_the_end(name: str) -> None:
    check(name, (300,), 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_a_format_is_whole_whatever_the_budget(name: str) -> None:
    check(name, (100, 200, 300, 400, 500), 8)
