"""Keys of JSON Schema that the library has no automaton for, said with those that it has one for.

``dependencies``, ``dependentRequired``, ``dependentSchemas``, ``if``, ``not`` and ``propertyNames``
become ``anyOf``, ``required`` and properties that must not be there, where what they forbid can be
said so. Where it cannot, they stay, and the library refuses them by name.
"""

import itertools
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

Schema = Any
"""An object or a boolean, and whatever a request puts in its place."""

MAX_BRANCHINGS = 6
"""Conditions of one schema: the library multiplies their branches."""
MAX_WRITTEN_OUT = 30_000
"""Characters of all ways to fulfil a schema's conditions, each written out as a whole."""
MAX_NAMES = 200
"""Property names, or values that a text must not be, which are spelt out."""
_TYPES = ("null", "boolean", "number", "string", "array", "object")
_DEPENDENCIES = ("dependencies", "dependentRequired", "dependentSchemas")
_ANNOTATIONS = frozenset(
    {"title", "description", "$comment", "default", "examples", "deprecated", "markdownDescription"}
)


_DEFINING = frozenset({"$schema", "$id", "id", "$anchor", "$defs", "definitions"})


def without_conditions(schema: Mapping[str, Any], *, writes_out: bool = False) -> dict[str, Any]:
    """The same schema, its own conditions said with ``anyOf``; those of its parts stay.

    ``writes_out``: it may be written several times, once for each way to fulfil them.
    """
    made = dict(schema)
    conditions: list[Schema] = [*_dependencies(made), *_branches(made)]
    if isinstance(made.get("not"), Mapping | bool):
        negated = negation(made["not"], made)
        if negated is not None:
            del made["not"]
            conditions.append(negated)
    if len(conditions) > MAX_BRANCHINGS:
        return dict(schema)
    made = _named(made)
    written_out = _written_out(made, conditions) if writes_out and conditions else None
    if written_out is not None:
        return written_out
    if conditions:
        more = made.get("allOf", [])
        if not isinstance(more, list):
            return dict(schema)
        made["allOf"] = [*more, *conditions]
    return made


def _written_out(made: Mapping[str, Any], conditions: list[Schema]) -> dict[str, Any] | None:
    """All ways to fulfil conditions on properties, each as a whole schema; ``None`` if too many.

    The library cannot put two schemas together that lead back to themselves.
    """
    choices = [
        one["anyOf"] if isinstance(one, Mapping) and one.keys() == {"anyOf"} else [one]
        for one in conditions
    ]
    if math.prod(map(len, choices)) * len(json.dumps(made)) > MAX_WRITTEN_OUT:
        return None
    outside = {key: value for key, value in made.items() if key in _DEFINING}
    inside = {key: value for key, value in made.items() if key not in _DEFINING}
    ways = []
    for chosen in itertools.product(*choices):
        way: dict[str, Any] | None = inside
        for part in chosen:
            way = None if way is None else _both(way, part)
        if way is None:
            return None
        ways.append(way)
    return {**outside, "anyOf": ways}


def _both(made: dict[str, Any], more: Schema) -> dict[str, Any] | None:
    """An object's schema that holds some more properties to something, where it is that simple."""
    if more is True:
        return made
    if not isinstance(more, Mapping) or not more.keys() - _ANNOTATIONS <= {
        *("properties", "required", "type")
    }:
        return None
    if "type" in more and more["type"] != made.get("type"):
        return None
    known, added = made.get("properties", {}), more.get("properties", {})
    if not isinstance(known, Mapping) or not isinstance(added, Mapping):
        return None
    properties = dict(known)
    is_open = made.get("additionalProperties", True) in (True, {}) and not made.get(
        "patternProperties"
    )
    for name, schema in added.items():
        if schema is False:
            properties[name] = False
        elif name in known:
            properties[name] = {"allOf": [known[name], schema]}
        elif is_open:
            properties[name] = schema
        else:
            return None
    required = [*_strings(made.get("required")), *_strings(more.get("required"))]
    return {**made, "properties": properties, "required": [*dict.fromkeys(required)]}


def negation(schema: Schema, beside: Mapping[str, Any]) -> Schema | None:
    """What fulfils a schema's opposite; ``None`` where it cannot be said.

    ``beside`` is another schema that holds at the same place: its values count if it lists them.
    """
    if isinstance(schema, bool):
        return not schema
    if not isinstance(schema, Mapping):
        return None
    keys = {key: value for key, value in schema.items() if key not in _ANNOTATIONS}
    parts = [_negated_key(key, value, beside) for key, value in keys.items()]
    if any(part is None for part in parts):
        return None
    found = [part for part in parts if part is not False]
    return found[0] if len(found) == 1 else {"anyOf": found} if found else False


def _negated_key(key: str, value: Any, beside: Mapping[str, Any]) -> Schema | None:
    """What breaks one key of a schema; ``False`` where nothing can."""
    if key == "not":
        return value if isinstance(value, Mapping | bool) else None
    if key == "type":
        return _other_types(value)
    if key in ("const", "enum"):
        values = [value] if key == "const" else value
        return _other_values(values, beside) if isinstance(values, list) else None
    if key == "required" and isinstance(value, list):
        missing = [{"type": "object", "properties": {name: False}} for name in value]
        return {"anyOf": missing} if missing else False
    if key == "properties" and isinstance(value, Mapping):
        return _other_properties(value, beside)
    if key in ("anyOf", "allOf") and isinstance(value, list):
        parts = [negation(one, beside) for one in value]
        if any(part is None for part in parts):
            return None
        return {"allOf" if key == "anyOf" else "anyOf": parts}
    return None


def _other_types(types: Any) -> Schema | None:
    """Values of other types; of numbers, those that are no integers cannot be said."""
    named = {types} if isinstance(types, str) else {*types} if isinstance(types, list) else set()
    if not named or "integer" in named or not named <= {*_TYPES}:
        return None
    others = [name for name in _TYPES if name not in named]
    return {"type": others} if others else False


def _other_values(values: list[Any], beside: Mapping[str, Any]) -> Schema | None:
    """Other values than these: those that are listed beside, or all texts but some."""
    listed = [beside["const"]] if "const" in beside else beside.get("enum")
    if isinstance(listed, list):
        left = [value for value in listed if not any(_same(value, one) for one in values)]
        return {"enum": left} if left else False
    if len(values) > MAX_NAMES or not all(isinstance(v, str | bool) or v is None for v in values):
        return None
    texts = [value for value in values if isinstance(value, str)]
    kinds: list[Schema] = [{"type": ["number", "array", "object"]}, {"type": "string"}]
    if any(json.dumps(text, ensure_ascii=False) != f'"{text}"' for text in texts):
        return None  # the library's patterns are about texts as they are written
    if texts:
        kinds[1] = {"type": "string", "pattern": f"^(?:{_none_of(texts)})$"}
    simple = [v for v in (None, True, False) if not any(_same(v, one) for one in values)]
    return {"anyOf": [*kinds, {"enum": simple}] if simple else kinds}


def _other_properties(properties: Mapping[str, Any], beside: Mapping[str, Any]) -> Schema | None:
    """Objects with a property that is not as it should be."""
    known = beside.get("properties")
    ways = []
    for name, schema in properties.items():
        own = known.get(name) if isinstance(known, Mapping) else None
        other = negation(schema, own if isinstance(own, Mapping) else {})
        if other is None:
            return None
        ways.append({"type": "object", "properties": {name: other}, "required": [name]})
    return {"anyOf": ways} if ways else False


def _dependencies(made: dict[str, Any]) -> list[Schema]:
    """What the presence of properties asks for, each as one condition; the keys are taken out."""
    keys = [key for key in _DEPENDENCIES if isinstance(made.get(key), Mapping)]
    pairs = [pair for key in keys for pair in made[key].items()]
    by_need: dict[tuple[str, ...], list[str]] = defaultdict(list)
    conditions: list[Schema] = []
    for name, need in pairs:
        if isinstance(need, Mapping | bool):
            conditions.append({"anyOf": [{"properties": {name: False}}, need]})
        elif isinstance(need, list) and len(_strings(need)) == len(need):
            by_need[tuple(sorted({*need} - {*_strings(made.get("required"))}))].append(name)
        else:
            return []
    for names, triggers in by_need.items():
        absent = {"properties": dict.fromkeys(triggers, False)}
        if names:
            conditions.append({"anyOf": [absent, {"required": [*names]}]})
    if len(conditions) > MAX_BRANCHINGS:
        return []
    for key in keys:
        del made[key]
    return conditions


def _branches(made: dict[str, Any]) -> list[Schema]:
    """``if``, ``then`` and ``else`` as one condition; the keys are taken out."""
    if "if" not in made:
        return []
    then, otherwise = made.get("then", True), made.get("else", True)
    opposite = negation(made["if"], made)
    if opposite is None:
        return []
    condition = made["if"]
    for key in ("if", "then", "else"):
        made.pop(key, None)
    return [{"anyOf": [{"allOf": [condition, then]}, {"allOf": [opposite, otherwise]}]}]


def _named(made: dict[str, Any]) -> dict[str, Any]:
    """An object's properties, without those whose names are not allowed."""
    names = made.get("propertyNames", True)
    if names is True or (isinstance(names, Mapping) and {**names, "type": 0} == {"type": 0}):
        return {key: value for key, value in made.items() if key != "propertyNames"}
    known, rest = made.get("properties", {}), made.get("additionalProperties", True)
    if not isinstance(names, Mapping) or not isinstance(known, Mapping):
        return made
    said = {key for key in names if key not in _ANNOTATIONS} - {"type"}
    if "patternProperties" in made or names.get("type", "string") != "string":
        return made
    changed = {key: value for key, value in made.items() if key != "propertyNames"}
    if said == {"enum"} and len(_strings(names["enum"])) == len(names["enum"]) <= MAX_NAMES:
        changed["properties"] = {name: known.get(name, rest) for name in names["enum"]}
    elif said == {"pattern"} and isinstance(names["pattern"], str):
        try:
            allowed = re.compile(names["pattern"])
        except re.error:
            return made
        changed["properties"] = {name: known[name] for name in known if allowed.search(name)}
        changed["patternProperties"] = {names["pattern"]: rest}
        if known:  # a pattern must not match what is a property by name, too
            return made
    else:
        return made
    changed["additionalProperties"] = False
    return changed


def _none_of(texts: Iterable[str]) -> str:
    """Expression of all texts but these: what leaves their tree of letters, or ends within it."""
    by_letter: dict[str, list[str]] = defaultdict(list)
    may_end = True
    for text in texts:
        if text:
            by_letter[text[0]].append(text[1:])
        else:
            may_end = False
    anything = r"[\s\S]"
    ways = [f"{re.escape(letter)}(?:{_none_of(rest)})" for letter, rest in by_letter.items()]
    letters = "".join(_in_a_class(letter) for letter in by_letter)
    ways.append(f"[^{letters}]{anything}*" if letters else f"{anything}+")
    return "|".join([*ways, *([""] if may_end else [])])


def _in_a_class(letter: str) -> str:
    return f"\\{letter}" if letter in "\\]^-[&~" else letter


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal in JSON, where a truth is no number."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _strings(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
