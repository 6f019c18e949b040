"""The few shapes that decoding steps are rounded up to, so that each can be recorded."""

import dataclasses
from collections.abc import Iterator

SHORTEST = 256
"""Fewer keys than this cost about the same."""


@dataclasses.dataclass(frozen=True, order=True)
class Bucket:
    """Slots [0, rows), of which the first ``length`` tokens are looked at."""

    rows: int
    length: int


def all_buckets(num_slots: int, max_tokens: int) -> list[Bucket]:
    """Every shape that a cache can need, the largest first: its memory serves the others."""
    lengths = list(_doubling(min(SHORTEST, max_tokens), max_tokens))
    buckets = (Bucket(r, n) for r in _doubling(1, num_slots) for n in lengths)
    return sorted(buckets, reverse=True)


def bucket_of(rows: int, length: int, num_slots: int, max_tokens: int) -> Bucket:
    """The smallest shape that holds so many slots and tokens."""
    assert 0 < rows <= num_slots, "a slot is one of the cache's"
    assert 0 < length <= max_tokens, "a sequence fits its slot"
    lengths = _doubling(min(SHORTEST, max_tokens), max_tokens)
    return Bucket(
        next(r for r in _doubling(1, num_slots) if r >= rows),
        next(n for n in lengths if n >= length),
    )


def _doubling(first: int, last: int) -> Iterator[int]:
    """First, 2 · first, … and then last itself."""
    while first < last:
        yield first
        first *= 2
    yield last
