"""Puts schemas together that lead back to themselves, which the library refuses.

``{"$ref": "#", "type": "object"}`` within the schema that ``#`` names is the both of them: the
library would put them together while it still reads the first. Here each such place refers to a
definition of its own, in which that has been done; equal places share one, so that it ends.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
Way = tuple[dict[str, Any], ...]
"""Schemas without references and choices at their top, all of which hold."""

MAX_DEFINITIONS = 400
"""Places of one schema that may be put together."""
MAX_WAYS = 64
"""Choices of one place."""
NAME = "nestling-{}"
"""Of a definition that is made here."""
ANNOTATIONS = frozenset(
    {
        *("title", "description", "$comment", "default", "examples", "deprecated"),
        *("markdownDescription", "readOnly", "writeOnly", "$schema", "$defs", "definitions"),
    }
)
"""Keys that hold nothing at the place where they stand."""
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
DEFINITION = re.compile(r"#|#/(\$defs|definitions)/[^/]*")
"""A reference to the whole or to a definition."""
_CHOICES = ("anyOf", "oneOf")
BY_NAME = (
    *("properties", "patternProperties", "$defs", "definitions"),
    *("dependentSchemas", "dependencies"),
)
IN_PLACE = ("allOf", *_CHOICES)
PARTS = (
    *(*IN_PLACE, "prefixItems"),
    *("items", "additionalProperties", "contains", "not", "if", "then", "else"),
    "propertyNames",
)
"""Keys of one schema or of a list of them."""


class TooMuch(Exception):
    """A place has too many choices, or is none that can be put together."""


def without_circles(root: Schema) -> dict[str, Any]:
    """The same schema, with references that lead back to themselves alone where they stand."""
    schema = dict(root)
    parts = [*subschemas(schema)]
    references = {part["$ref"] for part in (schema, *parts) if isinstance(part.get("$ref"), str)}
    if not all(map(DEFINITION.fullmatch, references)) or any(map(_names_itself, parts)):
        return schema
    leading = _leading(schema, references)
    if not leading:
        return schema
    try:
        return _Circles(schema, leading).schema
    except (TooMuch, RecursionError):
        return schema


def resolved(root: Schema, reference: object) -> Any:
    """What a reference names within a schema; ``None`` if that is elsewhere or nothing."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found: Any = root
    for part in reference[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, Mapping) and name in found:
            found = found[name]
        else:
            return None
    return found


def subschemas(schema: object) -> Iterator[Schema]:
    """The parts of a schema, without itself."""
    for part in _parts(schema):
        if isinstance(part, Mapping):
            yield part
            yield from subschemas(part)


def _parts(schema: object) -> Iterator[Any]:
    """The next parts of a schema."""
    if not isinstance(schema, Mapping):
        return
    for key in PARTS:
        if key in schema:
            yield from schema[key] if isinstance(schema[key], list) else [schema[key]]
    for key in BY_NAME:
        if isinstance(schema.get(key), Mapping):
            yield from schema[key].values()


def _names_itself(schema: Schema) -> bool:
    """Whether references within a part mean something else than in the whole."""
    return isinstance(schema.get("$id", schema.get("id")), str)


def _leading(root: Schema, references: Iterable[str]) -> set[str]:
    """References that lead to one that leads back to itself."""
    leads: dict[str, set[str]] = {}

    def found(schema: Any) -> set[str]:
        if not isinstance(schema, Mapping):
            return set()
        inside = {key: value for key, value in schema.items() if key not in ANNOTATIONS}
        parts = (inside, *subschemas(inside))
        return {part["$ref"] for part in parts if isinstance(part.get("$ref"), str)}

    left = [*references]
    while left:
        reference = left.pop()
        if reference not in leads:
            leads[reference] = found(resolved(root, reference))
            left += leads[reference]
    reached = {one: _reached(leads, leads[one]) for one in leads}
    circular = {one for one in leads if one in reached[one]}
    return {one for one in leads if circular & {one, *reached[one]}}


def _reached(leads: Mapping[str, set[str]], start: Iterable[str]) -> set[str]:
    reached: set[str] = set()
    left = [*start]
    while left:
        reference = left.pop()
        if reference not in reached:
            reached.add(reference)
            left += leads[reference]
    return reached


class _Circles:
    """One schema, and the definitions that are made for it."""

    def __init__(self, root: dict[str, Any], leading: set[str]) -> None:
        self._root = root
        self._leading = leading
        self._names: dict[str, str] = {}
        self._made: dict[str, Any] = {}
        whole = self._within(root)
        first = self._part(root) if self._leads_back(root) else whole
        if first.keys() == {"$ref"}:
            kept = {key: whole[key] for key in whole if key in ANNOTATIONS or key == "$id"}
            whole = {**kept, **first}
        if self._made:
            own = whole.get("$defs")
            whole["$defs"] = {**(own if isinstance(own, Mapping) else {}), **self._made}
        self.schema = whole

    def _part(self, schema: Any) -> Any:
        """A part of a schema, put together where that is needed."""
        if not isinstance(schema, Mapping):
            return schema
        if self._leads_back(schema):
            try:
                return self._put_together(schema)
            except TooMuch:
                pass
        return self._within(schema)

    def _within(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """A schema whose parts are put together where that is needed."""
        made = _without_wide_patterns(dict(schema))
        for key in PARTS:
            if isinstance(made.get(key), list):
                made[key] = [self._part(one) for one in made[key]]
            elif key in made:
                made[key] = self._part(made[key])
        for key in BY_NAME:
            if isinstance(made.get(key), Mapping):
                made[key] = {name: self._part(one) for name, one in made[key].items()}
        return made

    def _leads_back(self, schema: Mapping[str, Any]) -> bool:
        """Whether several things hold at one place, of which one leads to a circle."""
        said = schema.keys() - ANNOTATIONS - {"$id", "id"}
        ways = [one for key in IN_PLACE for one in _listed(schema.get(key))]
        is_plain = len(said) <= 1 and (len(ways) <= 1 or not schema.keys() & {"allOf"})
        if is_plain or not schema.keys() & {"$ref", *IN_PLACE}:
            return False
        inside = {key: value for key, value in schema.items() if key not in ANNOTATIONS}
        return any(part.get("$ref") in self._leading for part in (inside, *subschemas(inside)))

    def _wholes(self, schema: Schema) -> list[dict[str, Any]]:
        """All ways to fulfil a schema, each as one schema."""
        return [whole for way in self._ways(schema) if (whole := _both(way)) is not None]

    def _put_together(self, schema: Schema) -> Any:
        """A reference to the definition of a schema and of what it refers to; else ``False``."""
        said = {key: value for key, value in schema.items() if key not in ANNOTATIONS}
        text = json.dumps(said, sort_keys=True)
        if text not in self._names:
            if len(self._names) >= MAX_DEFINITIONS:
                raise TooMuch
            if not (wholes := self._wholes(schema)):
                return False
            name = self._names[text] = NAME.format(len(self._names))
            ways = [self._within(whole) for whole in wholes]
            self._made[name] = ways[0] if len(ways) == 1 else {"anyOf": ways}
        return {"$ref": f"#/$defs/{self._names[text]}"}

    def _ways(self, schema: Any, seen: frozenset[str] = frozenset()) -> list[Way]:
        """All ways to fulfil a schema, without references and choices at their top."""
        if not isinstance(schema, Mapping):
            return [] if schema is False else [()]
        plain = {
            key: value
            for key, value in schema.items()
            if key not in ANNOTATIONS and key not in ("$ref", "$id", "id", *IN_PLACE)
        }
        ways: list[Way] = [(plain,)] if plain else [()]
        reference = schema.get("$ref")
        if reference is not None:
            target = resolved(self._root, reference)
            if target is None or reference in seen:
                raise TooMuch
            ways = _each(ways, self._ways(target, seen | {reference}))
        for key in _CHOICES:
            if key in schema:
                ways = _each(
                    ways, [w for one in _listed(schema[key]) for w in self._ways(one, seen)]
                )
        for one in _listed(schema.get("allOf")):
            ways = _each(ways, self._ways(one, seen))
        return ways


def _each(some: list[Way], others: list[Way]) -> list[Way]:
    if len(some) * len(others) > MAX_WAYS:
        raise TooMuch
    return [(*one, *other) for one in some for other in others]


def _both(way: Way) -> dict[str, Any] | None:
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


def _without_wide_patterns(schema: dict[str, Any]) -> dict[str, Any]:
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


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
