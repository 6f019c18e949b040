"""What one rendering of a template may make, in characters, and how long it may take."""

import time
from collections.abc import ItemsView, KeysView, Mapping, ValuesView
from typing import Any

from jinja2.utils import Namespace

CHARACTERS = 8 * 2**20
"""Beside what the messages allow: ten thousand times what a usual template makes."""
PER_CHARACTER = 16
"""Of the messages: a template puts each together a few times before it is written."""
SECONDS = 1.0
"""Of the thread's own time. Usual templates take a millisecond, 20,000 messages 0.6 s."""
NODE = 8
"""A value inside a list or an object counts as so many characters: it is a pointer at least."""
MAX_DEPTH = 100
CHECK_MASK = 15
"""One of 16 operations looks at the clock; large ones look at it themselves."""
LARGE = 4096


class TemplateExceeds(ValueError):
    """A template wants more than it may; the message says of what."""


class Budget:
    """Of one rendering, in one thread."""

    def __init__(self, weight: int, *, seconds: float = SECONDS) -> None:
        """``weight`` is that of the messages, see ``weigh``."""
        self._most = self._left = CHARACTERS + PER_CHARACTER * weight
        self._most_at_once = CHARACTERS // 2 + 2 * weight
        self._seconds = seconds
        self._end = time.thread_time() + seconds
        self._count = 0

    def foresee(self, size: int) -> None:
        """Raise ``TemplateExceeds`` if so many characters must not be made."""
        if size > self._most_at_once or size > self._left:
            raise TemplateExceeds(f"it makes more than {self._most:,} characters")

    def spend(self, size: int) -> None:
        """Count characters that were made, or are about to be."""
        if size > self._most_at_once or size > self._left:
            self.foresee(size)
        self._left -= size
        self._count += 1
        if size > LARGE or not self._count & CHECK_MASK:
            self.look_at_clock()

    def work(self, size: int) -> None:
        """Raise ``TemplateExceeds`` if the time is over; ``size`` is what was gone over."""
        self._count += 1
        if size > LARGE or not self._count & CHECK_MASK:
            self.look_at_clock()

    def look_at_clock(self) -> None:
        """Raise ``TemplateExceeds`` if the time is over."""
        if time.thread_time() > self._end:
            raise TemplateExceeds(f"it takes more than {self._seconds:g} s")

    def weigh(self, value: object) -> int:
        """Weight of a value, at most what may still be made; raises ``TemplateExceeds`` above."""
        return weigh(value, min(self._left, self._most_at_once))

    def spend_on(self, value: Any) -> Any:
        """Count a value that was made, with everything in it, and give it back."""
        kind = type(value)
        self.spend(len(value) if kind is str else 1 if kind is bool else self.weigh(value))
        return value


def weigh(value: object, most: int = 1 << 62) -> int:
    """Characters that a value is written in, about; what is in it twice counts twice.

    Raises ``TemplateExceeds`` above ``most``, and for what is nested too deeply.
    """
    total, pending = 0, [(value, 0)]
    while pending:
        one, depth = pending.pop()
        if type(one) is str or isinstance(one, str | bytes):
            total += len(one)
        elif isinstance(one, int):
            total += 1 + one.bit_length() // 3
        else:
            inside = _inside(one)
            total += NODE * (1 + len(inside))
            if depth > MAX_DEPTH:
                raise TemplateExceeds(f"it nests values more than {MAX_DEPTH} deep")
            if total <= most:
                pending.extend((value, depth + 1) for value in inside)
        if total > most:
            raise TemplateExceeds("it makes too large a value")
    return total


def _inside(value: object) -> list[object]:
    """What a value's text would show of others."""
    if isinstance(value, Namespace):
        value = object.__getattribute__(value, "_Namespace__attrs")  # its text shows them
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset | KeysView | ValuesView | ItemsView):
        return list(value)
    return []
