"""What followed the last time that a text went like this: prompt-lookup decoding (Saxena, 2023).

``lookup`` is the definition; ``NgramIndex`` answers the same in constant time as a text grows.
"""

from collections.abc import Sequence

LENGTHS = (4, 3, 2)
"""Tokens at the end of the text that are looked for, the longest first."""


def lookup(token_ids: Sequence[int], num_tokens: int) -> tuple[int, tuple[int, ...]]:
    """Length of the longest suffix that stands earlier too, and what follows its last place there.

    Where the place overlaps the end, the text is a loop, and the loop goes on. ``(0, ())`` if
    there is no such suffix.
    """
    for length in LENGTHS:
        suffix = token_ids[-length:]
        for end in range(len(token_ids) - 1, length - 1, -1):
            if token_ids[end - length : end] == suffix:
                return length, _continuation(token_ids, end, num_tokens)
    return 0, ()


class NgramIndex:
    """Where each run of tokens of a growing text stood last."""

    def __init__(self) -> None:
        self._token_ids: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}
        """The position after a run, for the runs that a token follows."""

    @property
    def num_tokens(self) -> int:
        """Length of the text."""
        return len(self._token_ids)

    def extend(self, token_ids: Sequence[int]) -> None:
        """Append to the text."""
        for token_id in token_ids:
            end = len(self._token_ids)
            for length in LENGTHS:
                if length <= end:
                    self._ends[tuple(self._token_ids[end - length :])] = end
            self._token_ids.append(token_id)

    def lookup(self, num_tokens: int) -> tuple[int, tuple[int, ...]]:
        """See the function of that name."""
        for length in LENGTHS:
            end = self._ends.get(tuple(self._token_ids[-length:]))
            if end is not None:
                return length, _continuation(self._token_ids, end, num_tokens)
        return 0, ()


def _continuation(token_ids: Sequence[int], start: int, num_tokens: int) -> tuple[int, ...]:
    period = len(token_ids) - start
    return tuple(token_ids[start + ahead % period] for ahead in range(num_tokens))
