"""Ends of short texts that a grammar's patterns match: ways out of a string that one letter opens.

From within ``^[^@]+@[^@]+\\.[^@]+$`` almost every byte may follow and only ``@`` leads on, which
nobody sees one byte ahead. The pattern itself says it: read by the parser of Python's ``re``, it
gives texts such as ``a@a.a``, and from wherever an answer stands the rest of one may be left to
write. A matcher tells whether it is: nothing here has to be right, and a pattern that is not
understood gives nothing.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from re import _parser  # type: ignore[attr-defined]  # its public name is deprecated
from typing import Any

MAX_PATTERNS = 32
MAX_PATTERN_CHARS = 1_000
MAX_TEXTS = 8
"""Texts of one pattern, the shortest: where it branches, each way has its own."""
MAX_TEXT_CHARS = 48
MAX_ENDS = 128
_CANDIDATES = "a0A-_ .!" + "".join(map(chr, range(0x20, 0x7F)))
"""What a class of characters may stand for, the first first."""
FORMATS: Mapping[str, Sequence[str]] = {
    "date": ("2000-01-01",),
    "date-time": ("2000-01-01T00:00:00Z",),
    "duration": ("P1D",),
    "email": ("a@a", "a@a.aa"),
    "hostname": ("a.aa",),
    "ipv4": ("1.1.1.1",),
    "ipv6": ("::1", "1:1:1:1:1:1:1:1"),
    "time": ("00:00:00Z",),
    "uri": ("a:a", "http://a.aa/a"),
    "uuid": ("00000000-0000-0000-0000-000000000000",),
}
"""A text of each format that is held."""
_START = "start: /"
_REGEX = f'"lark_grammar":"{_START}'
_CATEGORIES = {"DIGIT": "[0-9]", "SPACE": r"\s", "WORD": r"\w"}
_PROPERTY = re.compile(r"\\p(?:\{\^?\w+\}|[A-Z])")
"""Unicode's properties, most of which are of letters, and which Python does not have."""
_WARNS = re.compile(r"\[\^?\[|--|&&|~~|\|\|")
"""Python's parser warns about these within a class, and may mean something else one day."""


@dataclasses.dataclass(frozen=True)
class Matches:
    """Of one grammar's patterns."""

    ends: tuple[bytes, ...] = ()
    """As in the answer's text, the shortest first."""
    quote: bytes = b""
    """What ends a string that matches; nothing where the answer is the match."""


def matches_of(grammar: str) -> Matches:
    """The ends of what a grammar's patterns match."""
    if not any(key in grammar for key in ('"pattern', '"format"', _REGEX)):
        return Matches()
    regex, schemas = _parts(grammar)
    found = (short for schema in schemas for short in _matches_of(schema))
    shorts = found if regex is None else iter([short_matches(regex)])
    texts = [text for short in itertools.islice(shorts, MAX_PATTERNS) for text in short]
    ends = {text[start:] for text in texts for start in range(len(text))}
    if regex is None:
        ends = {json.dumps(end, ensure_ascii=False)[1:-1] for end in ends}
    spelt = sorted(
        {end.encode("utf-8", "replace") for end in ends}, key=lambda end: (len(end), end)
    )
    return Matches(tuple(spelt[:MAX_ENDS]), b'"' if regex is None else b"")


def short_matches(pattern: str) -> tuple[str, ...]:
    """Short texts that a pattern matches, the shortest first; none if it is not understood."""
    if len(pattern) > MAX_PATTERN_CHARS or _WARNS.search(pattern):
        return ()
    try:
        return tuple(_texts(_parser.parse(_PROPERTY.sub(r"\\w", pattern))))
    except (ValueError, RecursionError, OverflowError, re.error):
        return ()


def _parts(grammar: str) -> tuple[str | None, list[object]]:
    """The expression that a grammar is, or the schemas that it has."""
    parts = json.loads(grammar)["grammars"]
    for part in parts:
        lark = part.get("lark_grammar") or ""
        if lark.startswith(_START):
            return lark.removeprefix(_START).removesuffix("/").replace("\\/", "/"), []
    return None, [part.get("json_schema") for part in parts]


def _matches_of(schema: object) -> Iterator[Sequence[str]]:
    """Short matches of each pattern and format of a schema."""
    if isinstance(schema, Mapping):
        if isinstance(pattern := schema.get("pattern"), str):
            yield short_matches(pattern)
        if isinstance(name := schema.get("format"), str):
            yield FORMATS.get(name, ())
        if isinstance(by_pattern := schema.get("patternProperties"), Mapping):
            yield from map(short_matches, by_pattern)
        for part in schema.values():
            yield from _matches_of(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _matches_of(part)


def _texts(nodes: Iterable[tuple[Any, Any]]) -> list[str]:
    """Short texts of a sequence of parsed parts. Raises ``ValueError`` where there are none."""
    made = [""]
    for kind, value in nodes:
        ways = _ways(str(kind), value)
        made = _shortest(before + after for before in made for after in ways)
    return made


def _ways(kind: str, value: Any) -> list[str]:
    """Short texts of one parsed part."""
    if kind == "LITERAL":
        return [chr(value)]
    if kind == "NOT_LITERAL":
        return [next(char for char in _CANDIDATES if ord(char) != value)]
    if kind == "ANY":
        return ["a"]
    if kind == "IN":
        return [_member(value)]
    if kind == "AT":
        return [""]
    if kind == "BRANCH":
        return _shortest(text for nodes in value[1] for text in _texts(nodes))
    if kind == "SUBPATTERN":
        return _texts(value[-1])
    if kind == "ATOMIC_GROUP":
        return _texts(value)
    if kind in {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}:
        return _repeated(*value)
    raise ValueError(kind)


def _repeated(least: int, most: int, nodes: Iterable[tuple[Any, Any]]) -> list[str]:
    """As often as it must be; once, too, where it need not be: an answer may stand within."""
    if most == 0:
        return [""]
    if least > MAX_TEXT_CHARS:
        raise ValueError("too long")
    texts = _texts(nodes)
    once = _shortest(text * max(least, 1) for text in texts)
    return once if least else ["", *once]


def _member(items: Sequence[tuple[Any, Any]]) -> str:
    """A character of a class."""
    is_negated = str(items[0][0]) == "NEGATE"
    plain = items[1:] if is_negated else items
    firsts = "" if is_negated else "".join(_firsts(plain))
    for char in _CANDIDATES + firsts:
        if any(_has(str(kind), value, char) for kind, value in plain) != is_negated:
            return char
    raise ValueError("no character is known to be in it")


def _firsts(items: Iterable[tuple[Any, Any]]) -> Iterator[str]:
    for kind, value in items:
        if str(kind) == "LITERAL":
            yield chr(value)
        elif str(kind) == "RANGE":
            yield chr(value[0])


def _has(kind: str, value: Any, char: str) -> bool:
    if kind == "LITERAL":
        return bool(ord(char) == value)
    if kind == "RANGE":
        return bool(value[0] <= ord(char) <= value[1])
    if kind == "CATEGORY":
        name = str(value).removeprefix("CATEGORY_")
        is_in = re.fullmatch(_CATEGORIES[name.removeprefix("NOT_")], char) is not None
        return is_in != name.startswith("NOT_")
    raise ValueError(kind)


def _shortest(texts: Iterable[str]) -> list[str]:
    """The few shortest of them. Raises ``ValueError`` if all are too long."""
    kept = sorted(
        {text for text in texts if len(text) <= MAX_TEXT_CHARS}, key=lambda t: (len(t), t)
    )
    if not kept:
        raise ValueError("too long")
    return kept[:MAX_TEXTS]
