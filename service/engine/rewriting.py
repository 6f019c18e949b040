"""Schemas and expressions put into the words that llguidance has for them.

A format that the library does not know is an annotation (JSON Schema 2020-12, 7.2.1). ``\\d`` is an
ASCII digit, as the library has it in a schema's patterns (ECMA 262), and not in other expressions.
"""

import re
from collections.abc import Mapping
from typing import Any

KNOWN_FORMATS = frozenset(
    {
        *("date", "time", "date-time", "duration", "email", "hostname"),
        *("ipv4", "ipv6", "uuid", "uri"),
    }
)
_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMAS = (
    *("allOf", "anyOf", "oneOf", "prefixItems"),
    *("items", "additionalProperties", "contains", "not", "if", "then", "else"),
)
"""Keys of one schema or of a list of them."""
_ESCAPE_OR_CLASS = re.compile(r"\\.|\[\^?\]?|\]", re.DOTALL)


def rewritten(schema: object, *, implies_objects: bool = False) -> Any:
    """A schema without the formats that are annotations.

    ``implies_objects``: ``properties`` without a type mean an object, as in TGI.
    """
    if isinstance(schema, list):  # ``items`` of older drafts
        return [rewritten(one, implies_objects=implies_objects) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    if isinstance(made.get("format"), str) and made["format"] not in KNOWN_FORMATS:
        del made["format"]
    if implies_objects and "properties" in made and "type" not in made:
        made["type"] = "object"
    for key in _SCHEMAS:
        if key in made:
            made[key] = rewritten(made[key], implies_objects=implies_objects)
    for key in _SCHEMAS_BY_NAME:
        if isinstance(made.get(key), Mapping):
            made[key] = {
                name: rewritten(one, implies_objects=implies_objects)
                for name, one in made[key].items()
            }
    return made


def with_ascii_digits(pattern: str) -> str:
    """A regular expression whose ``\\d`` is 0 to 9; ``\\D`` outside of brackets is what is not."""
    in_class = False

    def spelled(found: re.Match[str]) -> str:
        nonlocal in_class
        text = found[0]
        if text[0] != "\\":
            in_class = text[0] == "["
        elif text == r"\d":
            return "0-9" if in_class else "[0-9]"
        elif text == r"\D" and not in_class:
            return "[^0-9]"
        return text

    return _ESCAPE_OR_CLASS.sub(spelled, pattern)
