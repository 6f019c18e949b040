"""Reads JSON that somebody sent, at a bounded cost.

The cost of a text is that of its values: a megabyte of one text is read in a millisecond, a
megabyte of ``[],[],…`` in a tenth of a second, during which no other thread runs, and becomes 20
times its size in memory. Values are counted before any is made.
"""

import json
import re
from typing import Any

BYTES_A_VALUE = 4
"""A body may have a value for so many of the bytes that it may have: token ids with their commas
take more."""
MIN_VALUES = 1 << 12
"""However small a body must be."""
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BEFORE_VALUES = (b",", b":", b"[", b"{")
"""Each value but the first stands behind one of these."""


class Unreadable(ValueError):
    """JSON that is not read here; the message is for its sender."""


class TooManyValues(Unreadable):
    """Its values would take too much time and memory."""


def read_json(content: bytes, max_values: int) -> Any:
    """What a text of JSON says.

    Raises ``json.JSONDecodeError`` for what is none, ``TooManyValues``, and ``Unreadable`` for what
    is nested too deeply, has a number of too many digits, or is not UTF-8.
    """
    if json.detect_encoding(content) not in {"utf-8", "utf-8-sig"}:
        raise Unreadable("the body is not UTF-8")
    if num_values_at_most(content, max_values) > max_values:
        raise TooManyValues(f"the body has more than {max_values} values")
    try:
        return json.loads(content)
    except json.JSONDecodeError:
        raise
    except RecursionError as error:
        raise Unreadable("the body is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise Unreadable("the body is not UTF-8") from error
    except ValueError as error:  # Python's own limit for integers, against quadratic time
        raise Unreadable("the body has a number with too many digits") from error


def num_values_at_most(content: bytes, enough: int = 0) -> int:
    """A bound on the number of values in a text of JSON, exact within what is JSON.

    What stands in strings is counted too where that is not more than ``enough``: it takes a
    hundredth of the time.
    """
    number = _count(content)
    return number if number <= enough else _count(_without_strings(content))


def _without_strings(content: bytes) -> bytes:
    """The rest, cut in a loop of Python's: one call for all would let no other thread run."""
    parts, end = [], 0
    for string in _STRING.finditer(content):
        parts.append(content[end : string.start()])
        end = string.end()
    return b"".join([*parts, content[end:]])


def _count(content: bytes) -> int:
    return 1 + sum(map(content.count, _BEFORE_VALUES))
