"""Reads what a trainer appends to a journal, line by line, whatever stands there.

Anybody's process may write to a volume: a line counts if it is JSON of a bounded size with a step
and values as a trainer writes them, and what it says can be written in an answer.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Generic, NamedTuple, Self, TypeVar

from lm.plain_file import open_plain

T = TypeVar("T")
Line = Mapping[str, Any]

MAX_BYTES = 4 << 20
"""Read at once: of a longer journal its end, some ten thousand steps."""
MAX_LINE_BYTES = 64 << 10
"""A longer line is left out: parsing it would keep other threads from running."""
MAX_CHARACTERS = 4000
"""Of a sample's text and of its prompt."""
_CHECKED_BYTES = 64
_MOST_STEP = 2**53
"""Beyond it, not every program that reads JSON has the number."""


class Training(NamedTuple):
    """Training loss at a step."""

    step: int
    loss: float | None
    """Nats a token; ``None`` was not finite."""

    @classmethod
    def of(cls, line: Line) -> "Training | None":
        """From a line of the journal; ``None`` if it is no such point."""
        values = _numbers(line, "loss")
        return None if values is None else cls(line["step"], *values)


class Evaluation(NamedTuple):
    """Held-out loss at a step."""

    step: int
    loss: float | None
    bits_per_byte: float | None

    @classmethod
    def of(cls, line: Line) -> "Evaluation | None":
        """From a line of the journal; ``None`` if it is no such point."""
        values = _numbers(line, "validation_loss", "bits_per_byte")
        return None if values is None else cls(line["step"], *values)


class Sample(NamedTuple):
    """What the trainer had the model write."""

    step: int
    prompt: str
    text: str

    @classmethod
    def of(cls, line: Line) -> Self | None:
        """From a line of the journal; ``None`` if it is none."""
        prompt, text = line.get("prompt"), line.get("text")
        if not (_is_step(line.get("step")) and isinstance(prompt, str) and isinstance(text, str)):
            return None
        return cls(line["step"], _writable(prompt), _writable(text))


class Curve(Generic[T]):
    """Points in order, evenly chosen as they become too many, the last always among them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[T] = []
        self._stride = 1
        self._num_points = 0
        self._last: T | None = None

    def append(self, point: T) -> None:
        """Add a point."""
        if self._num_points % self._stride == 0:
            self._kept.append(point)
        self._num_points += 1
        self._last = point
        if len(self._kept) >= self._most:
            self._kept, self._stride = self._kept[::2], 2 * self._stride

    @property
    def points(self) -> list[T]:
        """At most as many as were asked for."""
        if self._last is None or self._kept[-1] is self._last:
            return list(self._kept)
        return [*self._kept, self._last]


@dataclasses.dataclass(frozen=True)
class _Mark:
    """How far a journal was read, and what tells that it is the same one."""

    inode: int
    modified_ns: int
    size: int
    """Of the file, at that time."""
    offset: int
    """Behind the last whole line."""
    before: bytes
    """The bytes in front of that."""


class Tail:
    """A journal that is read where the last reading ended. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: _Mark | None = None

    def read(self) -> tuple[bool, list[dict[str, Any]]]:
        """Whether it is another journal than before, and the lines that were not read yet.

        Raises ``OSError`` if there is no journal, or it cannot be read just now.
        """
        try:
            with open_plain(self._path) as file:
                return self._read(file)
        except OSError:
            self._mark = None
            raise

    def _read(self, file: BinaryIO) -> tuple[bool, list[dict[str, Any]]]:
        status, mark = os.fstat(file.fileno()), self._mark
        is_same = mark is not None and _goes_on(file, mark, status)
        if is_same and mark is not None and mark.size == status.st_size:
            return False, []
        begin = mark.offset if is_same and mark is not None else 0
        offset = max(begin, status.st_size - MAX_BYTES)
        file.seek(offset)
        content = file.read(status.st_size - offset)
        whole = content.rfind(b"\n") + 1
        self._mark = _Mark(
            inode=status.st_ino,
            modified_ns=status.st_mtime_ns,
            size=status.st_size,
            offset=offset + whole,
            before=content[max(0, whole - _CHECKED_BYTES) : whole],
        )
        return not is_same, _objects(content[:whole])


def _goes_on(file: BinaryIO, mark: _Mark, status: os.stat_result) -> bool:
    """Whether a journal is the one that was marked, with nothing but more lines."""
    if mark.inode != status.st_ino or status.st_size < mark.size:
        return False
    if status.st_size == mark.size:
        return mark.modified_ns == status.st_mtime_ns
    file.seek(mark.offset - len(mark.before))
    return file.read(len(mark.before)) == mark.before


def _objects(content: bytes) -> list[dict[str, Any]]:
    lines = []
    for text in content.split(b"\n"):
        if not text or len(text) > MAX_LINE_BYTES:
            continue
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def _numbers(line: Line, *names: str) -> list[float | None] | None:
    """Values by these names; ``None`` if one is not there or no number, or the step is none."""
    values = [line.get(name, "") for name in names]
    if not _is_step(line.get("step")) or not all(map(_is_number, values)):
        return None
    return [_finite(value) for value in values]


def _is_step(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST_STEP


def _is_number(value: object) -> bool:
    return value is None or type(value) in (int, float)


def _finite(value: int | float | None) -> float | None:
    try:
        number = math.nan if value is None else float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _writable(text: str) -> str:
    """A text that UTF-8 has: halves of characters become U+FFFD."""
    return text[:MAX_CHARACTERS].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
