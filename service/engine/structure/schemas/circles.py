"""Puts schemas together that lead back to themselves, which the library refuses.

``{"$ref": "#", "type": "object"}`` within the schema that ``#`` names is the both of them: the
library would put them together while it still reads the first. Here each such place refers to a
definition of its own, in which that has been done; equal places share one, so that it ends.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from service.engine.structure.schemas.together import Schema, Way, all_of, without_wide_patterns

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
        made = without_wide_patterns(dict(schema))
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
        return [whole for way in self._ways(schema) if (whole := all_of(way)) is not None]

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


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
