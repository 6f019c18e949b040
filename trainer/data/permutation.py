"""Keyed shuffles without a table: where an index goes is computed, in constant time and memory.

A Feistel network over the smallest even number of bits that holds all indices is a
bijection for any round function; indices that land outside are sent through again until they land
inside (cycle walking, Black and Rogaway 2002). Integers alone, so the same on every machine.
"""

import hashlib

_ROUNDS = 6
_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def derive_key(*parts: int | str) -> int:
    """A 64-bit key from integers and names; equal parts give equal keys on every machine."""
    content = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big")


def permute(index: int, size: int, key: int) -> int:
    """Image of an index in [0, size) under the permutation that the key names."""
    assert 0 <= index < size, (index, size)
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for round_number in range(_ROUNDS):
            mixed = _mix(right + key + round_number * _GOLDEN)
            left, right = right, left ^ (mixed & mask)
        index = left << half | right
        if index < size:
            return index


def _mix(word: int) -> int:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014)."""
    word &= _WORD
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & _WORD
    return word ^ (word >> 31)
