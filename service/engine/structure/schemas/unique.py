"""Finds where in an answer the items of an array must differ.

A place in an answer is all the schemas that may hold there, of whatever choice: an array must have
differing items if one of them says so. So more may be asked for than a schema does, never less.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from service.engine.structure.schemas.circles import IN_PLACE, resolved, subschemas

UNIQUE = "x-unique-items"
"""``uniqueItems`` in a grammar: the library passes over the key."""
MAX_VALUES = 1000
"""Values of an item that are listed."""
Place = tuple[Mapping[str, Any], ...]


class Places:
    """The places of one schema."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    @property
    def start(self) -> Place:
        """Of the whole answer."""
        return self._place([self._root])

    def item(self, place: Place, index: int) -> Place:
        """Of an array's item."""
        return self._place(_item(schema, index) for schema in place)

    def property(self, place: Place, name: str) -> Place:
        """Of an object's property; patterns are not compared, so that each may fit."""
        parts: list[Any] = []
        for schema in place:
            named = _mapping(schema.get("properties"))
            parts += _mapping(schema.get("patternProperties")).values()
            parts.append(named[name] if name in named else schema.get("additionalProperties"))
        return self._place(parts)

    def texts(self, place: Place) -> frozenset[bytes] | None:
        """All items that an array may have, as they are written, if they can be listed."""
        items = [_item(schema, 0) for schema in place if "items" in schema]
        if len(items) != 1 or any("prefixItems" in schema for schema in place):
            return None
        values = listed_values(items[0], self._root)
        return None if values is None else frozenset(map(_text, values))

    def _place(self, schemas: Iterable[Any]) -> Place:
        """Schemas and what they refer to or choose from."""
        found: dict[int, Mapping[str, Any]] = {}
        left = [*schemas]
        while left:
            schema = left.pop()
            if isinstance(schema, Mapping) and id(schema) not in found:
                found[id(schema)] = schema
                left.append(resolved(self._root, schema.get("$ref")))
                for key in IN_PLACE:
                    left += schema[key] if isinstance(schema.get(key), list) else []
        return tuple(found.values())


def bounded(root: dict[str, Any]) -> dict[str, Any]:
    """A schema, in place, whose arrays of listed values have at most one item a value.

    Items may then run out only where they are not listed.
    """
    for schema in (root, *subschemas(root)):
        if schema.get(UNIQUE) is True and isinstance(schema, dict) and "prefixItems" not in schema:
            values = listed_values(schema.get("items"), root)
            if values is not None:
                given = schema.get("maxItems", len(values))
                schema["maxItems"] = min(given, len(values)) if type(given) is int else given
    return root


def must_differ(place: Place) -> bool:
    """Whether the items of an array at a place must differ."""
    return any(schema.get(UNIQUE) is True for schema in place)


def listed_values(schema: Any, root: Mapping[str, Any], depth: int = 8) -> list[Any] | None:
    """All values that a schema may allow, each once, if they are few and no arrays or objects."""
    values = _listed_values(schema, root, depth)
    if values is None or len(values) > MAX_VALUES:
        return None
    if not all(isinstance(one, str | int) or one is None for one in values):
        return None
    return [*{_text(one): one for one in values}.values()]


def _listed_values(schema: Any, root: Mapping[str, Any], depth: int) -> list[Any] | None:
    if not isinstance(schema, Mapping) or not depth:
        return [] if schema is False else None
    if "const" in schema:
        return [schema["const"]]
    if isinstance(schema.get("enum"), list):
        return list(schema["enum"])
    if "$ref" in schema:
        return _listed_values(resolved(root, schema["$ref"]), root, depth - 1)
    for key in IN_PLACE:
        if isinstance(schema.get(key), list):
            ways = [_listed_values(one, root, depth - 1) for one in schema[key]]
            known = [way for way in ways if way is not None]
            if key == "allOf":
                return min(known, key=len, default=None)
            if len(known) == len(ways):
                return [value for way in known for value in way]
    return _of_types(schema)


def _of_types(schema: Mapping[str, Any]) -> list[Any] | None:
    """All values of a schema's types."""
    types = schema.get("type")
    values: list[Any] = []
    for name in types if isinstance(types, list) else [types]:
        low, high = schema.get("minimum"), schema.get("maximum")
        if name == "boolean":
            values += [False, True]
        elif name == "null":
            values.append(None)
        elif name == "integer" and type(low) is type(high) is int and high - low < MAX_VALUES:
            values += range(low, high + 1)
        else:
            return None
    return values


def _item(schema: Mapping[str, Any], index: int) -> Any:
    """The schema of an array's item; ``items`` of older drafts may be a list."""
    for key, rest in (("prefixItems", "items"), ("items", "additionalItems")):
        first = schema.get(key)
        if isinstance(first, list):
            return first[index] if index < len(first) else schema.get(rest)
    return schema.get("items")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
