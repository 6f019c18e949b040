"""Schemas and expressions put into the words that llguidance has for them.

A format that the library does not know is an annotation (JSON Schema 2020-12, 7.2.1). ``\\d`` is an
ASCII digit, as the library has it in a schema's patterns (ECMA 262), and not in other expressions.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

from service.engine.structure.schemas.circles import BY_NAME, DEFINITION, PARTS, without_circles
from service.engine.structure.schemas.conditions import without_conditions
from service.engine.structure.schemas.unique import UNIQUE, bounded

KNOWN_FORMATS = frozenset(
    {
        *("date", "time", "date-time", "duration", "email", "hostname"),
        *("ipv4", "ipv6", "uuid", "uri"),
    }
)
_ESCAPE_OR_CLASS = re.compile(r"\\.|\[\^?\]?|\]", re.DOTALL)


def rewritten(schema: object, *, implies_objects: bool = False) -> Any:
    """A schema without formats that are annotations, and without conditions.

    ``implies_objects``: ``properties`` without a type mean an object, as in TGI.
    """
    made = _rewritten(
        schema, implies_objects=implies_objects, writes_out=not _points_inside(schema)
    )
    return bounded(without_circles(made)) if isinstance(made, Mapping) else made


def _rewritten(schema: object, *, implies_objects: bool, writes_out: bool) -> Any:
    """``rewritten``; ``writes_out`` as in ``engine.conditions``."""
    part = functools.partial(_rewritten, implies_objects=implies_objects, writes_out=writes_out)
    if isinstance(schema, list):  # ``items`` of older drafts
        return [part(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = _known(schema, implies_objects=implies_objects)
    for key in PARTS:
        if key in made:
            made[key] = part(made[key])
    for key in BY_NAME:
        if isinstance(made.get(key), Mapping):
            made[key] = {name: part(one) for name, one in made[key].items()}
    return without_conditions(made, writes_out=writes_out)


def _known(schema: Mapping[str, Any], *, implies_objects: bool) -> dict[str, Any]:
    """A schema with such keys as the library knows for one, but its conditions."""
    made = dict(schema)
    if isinstance(made.get("format"), str) and made["format"] not in KNOWN_FORMATS:
        del made["format"]
    if implies_objects and "properties" in made and "type" not in made:
        made["type"] = "object"
    differs = made.get("uniqueItems")
    if isinstance(differs, bool):
        del made["uniqueItems"]
    if differs is True and not _never_holds_two(made):
        made[UNIQUE] = True
    return made


def _points_inside(schema: object) -> bool:
    """Whether a reference leads elsewhere than to a definition or to the whole."""
    if isinstance(schema, list):
        return any(map(_points_inside, schema))
    if not isinstance(schema, Mapping):
        return False
    target = schema.get("$ref")
    if isinstance(target, str) and not DEFINITION.fullmatch(target):
        return True
    return any(map(_points_inside, schema.values()))


def _never_holds_two(schema: Mapping[str, Any]) -> bool:
    """Whether a schema is of no array, or of one with an item at the most."""
    types = schema.get("type")
    is_array = types is None or types == "array" or (isinstance(types, list) and "array" in types)
    return not is_array or schema.get("maxItems") in (0, 1)


def with_ascii_digits(pattern: str) -> str:
    """A regular expression whose ``\\d`` is 0 to 9; ``\\D`` outside of brackets is what is not."""
    in_class = False

    def spelled(found: re.Match[str]) -> str:
        nonlocal in_class
        text = found[0]
        if text[0] != "\\":
            in_class = text[0] == "[" and not (in_class and text[-1] == "]")
        elif text == r"\d":
            return "0-9" if in_class else "[0-9]"
        elif text == r"\D" and not in_class:
            return "[^0-9]"
        return text

    return _ESCAPE_OR_CLASS.sub(spelled, pattern)
