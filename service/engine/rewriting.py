"""Schemas and expressions put into the words that llguidance has for them.

A format that the library does not know is an annotation (JSON Schema 2020-12, 7.2.1), and ``\\d``
is an ASCII digit in JSON Schema's expressions (ECMA 262) as in most people's minds.
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
_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMA = ("items", "additionalProperties", "contains", "not", "if", "then", "else")
_ESCAPE_OR_CLASS = re.compile(r"\\.|\[\^?\]?|\]", re.DOTALL)


def rewritten(schema: object, *, implies_objects: bool = False) -> Any:
    """A schema without formats that are annotations, its patterns' digits ASCII.

    ``implies_objects``: ``properties`` without a type mean an object, as in TGI.
    """
    if isinstance(schema, list):  # ``items`` of older drafts
        return [rewritten(one, implies_objects=implies_objects) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    if isinstance(made.get("format"), str) and made["format"] not in KNOWN_FORMATS:
        del made["format"]
    if isinstance(made.get("pattern"), str):
        made["pattern"] = with_ascii_digits(made["pattern"])
    if implies_objects and "properties" in made and "type" not in made:
        made["type"] = "object"
    for key in made.keys() & {*_SCHEMA, *_SCHEMAS, *_OF_SCHEMAS}:
        value = made[key]
        if key in _OF_SCHEMAS and isinstance(value, Mapping):
            made[key] = {
                name: rewritten(one, implies_objects=implies_objects) for name, one in value.items()
            }
        elif key not in _OF_SCHEMAS:
            made[key] = rewritten(value, implies_objects=implies_objects)
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
