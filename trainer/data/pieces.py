"""A long text in pieces that a tokenizer cuts as it would cut the whole.

Byte-level vocabularies cut text at white space, and a run of it as one; so a piece ends at a line
break that stands alone between two words, else before such a space. Where there is neither it
ends where the limit falls.
"""

import re
from collections.abc import Iterator

_LONE = (re.compile(r"(?<=\S)\n(?=\S)"), re.compile(r"(?<=\S)(?= \S)"))


def pieces(text: str, limit: int) -> Iterator[str]:
    """The text in pieces of at most ``limit`` characters; all of them joined are the text."""
    start = 0
    while len(text) - start > limit:
        cut = _cut(text, start, start + limit)
        yield text[start:cut]
        start = cut
    yield text[start:]


def _cut(text: str, start: int, end: int) -> int:
    """The last good place to cut between start (excluded) and end."""
    for lone in _LONE:
        cut = max((found.end() for found in lone.finditer(text, start, end)), default=start)
        if cut > start:
            return cut
    return end
