"""Reads an answer's JSON as it is written and says where an item of an array comes again.

Each step gives a new state, and the old one stays: a search tries many ways on.
"""

import bisect
import json
from collections.abc import Hashable
from typing import Any, NamedTuple, Self

from service.engine.structure.schemas.unique import Place, Places, must_differ

Texts = tuple[bytes, ...]


class _Level(NamedTuple):
    """An array or an object that is not at its end."""

    place: Place
    is_array: bool
    differs: bool
    """Whether its items must."""
    texts: Texts | None = None
    """All that they may be, ascending, where they are listed."""
    seen: frozenset[Hashable] = frozenset()
    number: int = 0
    start: int | None = None
    """Where the item, the key or the property's value begins that is not at its end."""
    key: str | None = None


class Reader(NamedTuple):
    """How far an answer was read: of compact JSON, which a grammar holds it to."""

    places: Places
    levels: tuple[_Level, ...] = ()
    text: bytes = b""
    is_string: bool = False
    is_escape: bool = False

    @property
    def is_within(self) -> bool:
        """Whether an array is not at its end whose items must differ."""
        return any(level.differs for level in self.levels)

    def after(self, text: bytes) -> "Reader | None":
        """The state after some more bytes; ``None`` if an item comes again, or must."""
        reader: Reader | None = self
        for place in range(len(text)):
            if reader is not None:
                reader = reader.past_byte(text[place : place + 1])
        return reader

    def past_byte(self, byte: bytes) -> "Reader | None":
        read = self._replace(text=self.text + byte)
        if self.is_string:
            if self.is_escape or byte == b"\\":
                return read._replace(is_escape=not self.is_escape).checked()
            if byte != b'"':
                return read.checked()
            return read._replace(is_string=False).ended(len(read.text))
        if byte in b" :":
            return read
        if byte == b",":
            ended = read.ended(len(self.text))
            return None if ended is None else ended.past_comma()
        if byte in b"}]":
            ended = read.ended(len(self.text))
            if ended is None or not ended.levels:
                return ended
            return ended._replace(levels=ended.levels[:-1]).ended(len(read.text))
        begun = read.begun()
        if byte == b'"':
            begun = begun._replace(is_string=True)
        if byte in b"{[":
            return begun.opened(is_array=byte == b"[")
        return begun.checked()

    def top(self, **changes: Any) -> Self:
        return self._replace(levels=(*self.levels[:-1], self.levels[-1]._replace(**changes)))

    def begun(self) -> "Reader":
        """At the first byte of a value or of a key, or within a number or a name."""
        if not self.levels or self.levels[-1].start is not None:
            return self
        return self.top(start=len(self.text) - 1)

    def opened(self, *, is_array: bool) -> "Reader":
        """In an array or an object, past its bracket."""
        if not self.levels:
            place = self.places.start
        elif self.levels[-1].is_array:
            place = self.places.item(self.levels[-1].place, self.levels[-1].number)
        else:
            place = self.places.property(self.levels[-1].place, self.levels[-1].key or "")
        differs = is_array and must_differ(place)
        texts = self.places.texts(place) if differs else None
        listed = None if texts is None else tuple(sorted(texts))
        return self._replace(levels=(*self.levels, _Level(place, is_array, differs, listed)))

    def ended(self, end: int) -> "Reader | None":
        """Past a value or a key that ends at a byte; as it is if none began."""
        if not self.levels or self.levels[-1].start is None:
            return self
        level = self.levels[-1]
        text = self.text[level.start : end]
        if not level.is_array:
            is_key = level.key is None
            return self.top(start=None, key=_key(text) if is_key else level.key)
        if not level.differs:
            return self.top(start=None)
        value = canonical(text)
        if value is None or value in level.seen:
            return None
        return self.top(start=None, seen=level.seen | {value})

    def past_comma(self) -> "Reader | None":
        if not self.levels:
            return self
        level = self.levels[-1]
        if level.texts is not None and len(level.seen) >= len(level.texts):
            return None
        return self.top(number=level.number + 1, key=None)

    def checked(self) -> "Reader | None":
        """Itself, if its item can still become a listed one that was not there."""
        level = self.levels[-1] if self.levels else None
        if level is None or level.texts is None or level.start is None:
            return self
        begun = self.text[level.start :]
        place = bisect.bisect_left(level.texts, begun)
        while place < len(level.texts) and level.texts[place].startswith(begun):
            if canonical(level.texts[place]) not in level.seen:
                return self
            place += 1
        return None


def canonical(text: bytes) -> Hashable | None:
    """What is equal for equal values of JSON and no others; ``None`` for what nests too deeply.

    Numbers are equal that are so as doubles, since most readers make those of them; so are all that
    are too large for one.
    """
    try:
        value = json.loads(text.decode("utf-8", "replace"), parse_int=float)
        return _frozen(value)
    except RecursionError:
        return None


def _frozen(value: Any) -> Hashable:
    """A value of JSON, hashable, where a truth is no number."""
    if isinstance(value, dict):
        return "object", frozenset((key, _frozen(one)) for key, one in value.items())
    if isinstance(value, list):
        return "array", tuple(map(_frozen, value))
    return type(value) is bool, value


def _key(text: bytes) -> str:
    return str(json.loads(text.decode("utf-8", "replace")))
