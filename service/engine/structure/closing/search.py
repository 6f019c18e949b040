"""Finds a short text after which an answer is whole, by trying a grammar's matcher.

A matcher says which bytes may follow, not how far the end is. So a walk takes what ends soonest in
JSON (a quote within a string, a bracket, the shortest value) until the text is whole. Where that
leads nowhere, another walk looks one byte ahead and goes where it has been least. Then each choice
is tried otherwise, and the shortest text stays. Within a string whose pattern only some letters
lead out of, the ends of its matches are tried before all else; see ``matches``.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.engine.structure.closing.matches import Matches
from service.engine.structure.closing.spellings import Spellings

if TYPE_CHECKING:
    from llguidance import LLMatcher

MANY = 24
"""From so many bytes on a choice is a free one, as in a string: one of them stands for all."""
FEW = 12
"""Of other ways at one choice, so many are tried."""
SAME = 2
"""Times that a choice is made the same way before another way has its turn."""
MAX_CHOICES = 200
"""The first choices of a walk, which may be made otherwise: a matcher is kept for each."""
LOOKS = 4
"""Looks ahead that count as a step."""
_FIRST = b'}]0123456789"ntf[{,'
"""What to try first: what ends, then the shortest values."""
NO_MATCHES = Matches()
_RANKS = {byte: rank for rank, byte in enumerate(_FIRST)}


@dataclasses.dataclass(frozen=True)
class Closing:
    """Tokens after which an answer is whole, and their bytes."""

    token_ids: tuple[int, ...]
    text: bytes

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclasses.dataclass(frozen=True)
class _Choice:
    """Where a walk had a choice."""

    place: int
    """Bytes before it."""
    allowed: bytes
    taken: int
    matcher: "LLMatcher"


@dataclasses.dataclass(frozen=True)
class _Walk:
    """A text that ends whole, and where it could have gone on otherwise."""

    text: bytes
    choices: tuple[_Choice, ...]


@dataclasses.dataclass(frozen=True)
class _Ahead:
    """What follows a byte."""

    is_whole: bool
    num_forced: int
    """Bytes that have to follow it."""
    allowed: bytes
    """They themselves, or those that may."""


Uses = Counter[tuple[bytes, int]]
"""How often a walk took a byte where such bytes were allowed; -1 counts how often it was there."""


class Search:
    """One search, of a bounded number of steps: each reads a mask or forced bytes."""

    def __init__(self, spellings: Spellings, max_steps: int, matches: Matches = NO_MATCHES) -> None:
        """``matches`` are those of the grammar's patterns."""
        self._spellings = spellings
        self._matches = matches
        self._left = self._max_steps = max_steps
        self._tails: Sequence[Closing] = ()
        self._forced: dict[tuple[bytes, int], int] = {}

    @property
    def num_steps(self) -> int:
        """Steps that it has taken."""
        return self._max_steps - self._left

    def closing(
        self, matcher: "LLMatcher", enough: int = 0, tails: Sequence[Closing] = ()
    ) -> Closing | None:
        """The shortest closing that is found; the first of at most ``enough`` tokens will do.

        ``tails`` may be the last part of it.
        """
        self._tails = tails
        self._left, kept = self._left // 2, self._left - self._left // 2
        walk = self._walk(matcher)
        self._left += kept
        if walk is None:
            walk = self._walk(matcher, explores=True)
        best = None if walk is None else self._spelt(walk.text)
        if walk is None or best is None:
            return None
        number = 0
        while number < len(walk.choices) and len(best) > enough and self._left > 0:
            for other in self._others(walk.choices[number]):
                tried = self._otherwise(walk, number, other, len(best))
                spelt = None if tried is None else self._spelt(tried.text)
                if tried is not None and spelt is not None and len(spelt) < len(best):
                    walk, best = tried, spelt
            number += 1
        return best

    def _spelt(self, text: bytes) -> Closing | None:
        token_ids = self._spellings.fewest(text)
        return None if token_ids is None else Closing(token_ids, text)

    def _others(self, choice: _Choice) -> list[int]:
        """Other ways at a choice, the most promising first."""
        if len(choice.allowed) > MANY:
            return []
        ways = sorted(choice.allowed, key=_rank)[: FEW + 1]
        return [way for way in ways if way != choice.taken]

    def _otherwise(self, walk: _Walk, number: int, other: int, best: int) -> _Walk | None:
        """A walk that takes another way at one of its choices."""
        choice = walk.choices[number]
        matcher = choice.matcher.deep_copy()
        if not matcher.consume_token(self._spellings.id_of_byte[other]):
            return None
        text = walk.text[: choice.place] + bytes([other])
        rest = self._walk(matcher, text, longest=len(walk.text) + best)
        if rest is None:
            return None
        taken = dataclasses.replace(choice, taken=other)
        return _Walk(rest.text, (*walk.choices[:number], taken, *rest.choices))

    def _walk(
        self,
        start: "LLMatcher",
        text: bytes = b"",
        *,
        explores: bool = False,
        longest: int | None = None,
    ) -> _Walk | None:
        """Go on from a text until it is whole; ``None`` if the steps or bytes do not suffice."""
        matcher = start.deep_copy()
        choices: list[_Choice] = []
        uses: Uses = Counter()
        while not matcher.is_error():
            if matcher.is_accepting():
                return _Walk(text, tuple(choices))
            if self._left <= 0 or (longest is not None and len(text) > longest):
                return None
            self._left -= 1
            ahead = matcher.compute_ff_bytes()
            allowed = ahead[:1] or self._spellings.allowed_bytes(matcher.compute_bitmask())
            for tail in self._tails:
                if tail.text[0] in allowed and ends_whole(matcher, tail.token_ids):
                    return _Walk(text + tail.text, tuple(choices))
            if not allowed:
                return None
            ahead = ahead or self._match(matcher, allowed)
            if not ahead:
                way = self._way(matcher, allowed, uses, explores=explores)
                if len(choices) < MAX_CHOICES:
                    choices.append(_Choice(len(text), allowed, way, matcher.deep_copy()))
                ahead = bytes([way])
            token_ids = [self._spellings.id_of_byte.get(byte, -1) for byte in ahead]
            if -1 in token_ids or not matcher.consume_tokens(token_ids):
                return None
            text += ahead
        return None

    def _match(self, matcher: "LLMatcher", allowed: bytes) -> bytes:
        """The shortest end of a match after which a string or the text may end; empty if none."""
        ends, quote, ids = self._matches.ends, self._matches.quote, self._spellings.id_of_byte
        if not ends or len(allowed) == 1 or (quote and quote in allowed):
            return b""
        self._left -= 1
        for end in ends:
            if end[0] in allowed and all(byte in ids for byte in end + quote):
                token_ids = [ids[byte] for byte in end + quote]
                is_valid = matcher.validate_tokens(token_ids) == len(token_ids)
                if is_valid and (quote or ends_whole(matcher, token_ids)):
                    return end
        return b""

    def _way(self, matcher: "LLMatcher", allowed: bytes, uses: Uses, *, explores: bool) -> int:
        """Which of the allowed bytes to take; counted as a use."""
        way = self._best_way(matcher, allowed, uses, explores=explores)
        uses[allowed, way] += 1
        return way

    def _best_way(self, matcher: "LLMatcher", allowed: bytes, uses: Uses, *, explores: bool) -> int:
        if len(allowed) == 1:
            return allowed[0]
        if not explores:
            ends = b'"}]' if len(allowed) > MANY else b"}]"
            for end in ends:
                if end in allowed:
                    return end
            if len(allowed) > MANY:
                return min(allowed, key=lambda way: (uses[allowed, way] // SAME, _rank(way)))
        if not explores:
            return min(
                allowed,
                key=lambda way: (
                    uses[allowed, way] // SAME,
                    self._num_forced(matcher, allowed, way),
                    _rank(way),
                ),
            )
        self._left -= len(allowed) // LOOKS

        def promise(way: int) -> tuple[bool, int, int, int, int]:
            seen = self._ahead(matcher, way)
            been = uses[seen.allowed, -1]
            return (not seen.is_whole, been, uses[allowed, way], seen.num_forced, _rank(way))

        uses[allowed, -1] += 1
        return min(allowed, key=promise)

    def _num_forced(self, matcher: "LLMatcher", allowed: bytes, way: int) -> int:
        """How many bytes must follow a byte, as where the same were allowed before."""
        if (allowed, way) not in self._forced:
            self._forced[allowed, way] = self._ahead(matcher, way).num_forced
        return self._forced[allowed, way]

    def _ahead(self, matcher: "LLMatcher", way: int) -> "_Ahead":
        """What follows a byte."""
        after = matcher.deep_copy()
        if not after.consume_token(self._spellings.id_of_byte[way]):
            return _Ahead(is_whole=False, num_forced=0, allowed=b"")
        if after.is_accepting():
            return _Ahead(is_whole=True, num_forced=0, allowed=b"")
        forced = after.compute_ff_bytes()
        allowed = forced or self._spellings.allowed_bytes(after.compute_bitmask())
        return _Ahead(is_whole=False, num_forced=len(forced), allowed=allowed)


def ends_whole(matcher: "LLMatcher", token_ids: Sequence[int]) -> bool:
    """Whether an answer is whole after some more tokens."""
    tokens = list(token_ids)
    if matcher.validate_tokens(tokens) < len(tokens):
        return False
    end = matcher.deep_copy()
    return end.consume_tokens(tokens) and end.is_accepting()


def _rank(byte: int) -> int:
    return _RANKS.get(byte, len(_FIRST) + byte)
