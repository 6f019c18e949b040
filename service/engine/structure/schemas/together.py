"""Several schemas that hold at one place, as one."""

import re
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]
Way = tuple[dict[str, Any], ...]
"""Schemas without references and choices at their top, all of which hold."""

_REST = "additionalProperties"
_OBJECTS = frozenset({"properties", _REST})
_COUNTING = (
    (_REST, "properties", "patternProperties"),
    ("items", "prefixItems"),
    ("additionalItems", "items"),
    ("contains", "minContains", "maxContains"),
    ("if", "then", "else"),
)
"""Keys that depend on others beside them."""


def all_of(way: Way) -> dict[str, Any] | None:
    """One schema of several; ``None`` if no value fits all of them."""
    made: dict[str, Any] = {}
    rest: list[dict[str, Any]] = []
    for more in way:
        both = {**made, **more}
        shared = made.keys() & more.keys()
        if "type" in shared:
            types = _types(made["type"], more["type"])
            if not types:
                return None
            both["type"] = types[0] if len(types) == 1 else types
        if "required" in shared:
            both["required"] = [*dict.fromkeys((*made["required"], *more["required"]))]
        if made.keys() & _OBJECTS and more.keys() & _OBJECTS and "patternProperties" not in both:
            both.update(_all_properties(made, more))
        shared -= {"type", "required", *(_OBJECTS if "patternProperties" not in both else ())}
        if any(made[key] != more[key] for key in shared) or _disturb(made, more):
            rest.append(more)
        else:
            made = both
    return {**made, "allOf": rest} if rest else made


def _types(some: Any, others: Any) -> list[Any]:
    """The types that both name."""
    left, right = (one if isinstance(one, list) else [one] for one in (some, others))
    both = [one for one in left if one in right or (one == "integer" and "number" in right)]
    return both + [
        one for one in right if one == "integer" and "number" in left and one not in both
    ]


def _all_properties(some: Schema, others: Schema) -> dict[str, Any]:
    """What two objects without patterns make of their properties and of all others."""
    named = [dict(one.get("properties", {})) for one in (some, others)]
    rest = [one.get(_REST, True) for one in (some, others)]
    made = {
        name: _meet(named[0].get(name, rest[0]), named[1].get(name, rest[1]))
        for name in named[0] | named[1]
    }
    return {"properties": made, _REST: _meet(*rest)}


def _meet(one: Any, other: Any) -> Any:
    if one == other or other in (True, {}):
        return one
    if one in (True, {}):
        return other
    return False if False in (one, other) else {"allOf": [one, other]}


def without_wide_patterns(schema: dict[str, Any]) -> dict[str, Any]:
    """An object's schema, whose one pattern is said otherwise if it fits every name."""
    patterns, named = schema.get("patternProperties"), schema.get("properties", {})
    if not isinstance(patterns, Mapping) or len(patterns) != 1 or not isinstance(named, Mapping):
        return schema
    ((pattern, one),) = patterns.items()
    if not _fits_everything(pattern):
        return schema
    made = {key: value for key, value in schema.items() if key != "patternProperties"}
    made["properties"] = {name: _meet(own, one) for name, own in named.items()}
    return {**made, _REST: one}


def _fits_everything(pattern: str) -> bool:
    """Whether a pattern, which looks at nothing that follows, fits before the first letter."""
    try:
        return not re.search(r"\$|\\[bBZ]|\(\?", pattern) and bool(re.match(pattern, ""))
    except re.error:
        return False


def _disturb(made: Schema, more: Schema) -> bool:
    """Whether two schemas have keys of which one counts what others beside it name."""
    for counting, *named in _COUNTING if "patternProperties" in {**made, **more} else _COUNTING[1:]:
        some, others = (one.keys() & {counting, *named} for one in (made, more))
        if some and others and some != others and counting in some | others:
            return True
    return False
