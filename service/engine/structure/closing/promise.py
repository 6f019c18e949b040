"""Lets through only what an answer can still end whole after, within its budget.

There is always a known closing: tokens after which the answer is whole. A letter within a string
leaves it as it is, and the next of its tokens shortens it; whatever else comes costs a search.
Where no closing is known (the search has bounds), everything is let through.
"""

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from service.engine.structure.closing.matches import Matches
from service.engine.structure.closing.search import NO_MATCHES, Closing, Search, ends_whole
from service.engine.structure.closing.spellings import Spellings

if TYPE_CHECKING:
    from llguidance import LLMatcher

MAX_FIRST_STEPS = 4_000
"""Of the search at the beginning of a grammar: tens of milliseconds, once a grammar."""
MAX_STEPS = 120
"""Of a search for one token of an answer: a few milliseconds."""
MAX_STEPS_A_TOKEN = 2 * MAX_STEPS
"""Of all searches for one token, however many are drawn until one is let through."""
MAX_TAILS = 6
"""Parts of the closing before a token that the one after it may end in."""
SELDOM = 16
"""Tokens from one look to the next while no closing is known.

A known one is kept up with each token, however many are left: a search alone may not find it again,
as from within the name of an email address.
"""


_VALUE_ENDS = re.compile(rb'[",}\]]')


def first_closing(
    matcher: "LLMatcher", spellings: Spellings, matches: Matches = NO_MATCHES
) -> Closing | None:
    """The shortest closing that is found of a whole answer; ``matches`` as in ``Search``."""
    return Search(spellings, MAX_FIRST_STEPS, matches).closing(matcher)


class _Allowed(NamedTuple):
    """A token that was let through, and what is known of the way on."""

    token_id: int
    closing: Closing | None
    was_due: bool


class Promise:
    """The closing of one answer and what is left of its budget."""

    def __init__(
        self,
        spellings: Spellings,
        first: Closing | None,
        budget: int,
        end_ids: Sequence[int],
        matches: Matches = NO_MATCHES,
    ) -> None:
        """``budget`` in tokens; ``end_ids`` of the tokenizer; ``matches`` as in ``Search``."""
        self._matches = matches
        self._end_ids = end_ids
        self._spellings = spellings
        self._left = budget
        self._closing = first if first is not None and len(first) <= budget else None
        self._next: _Allowed | None = None
        self._steps_left = MAX_STEPS_A_TOKEN
        self._looks_at = budget
        """With so many tokens left the next look is due."""

    @property
    def shortest(self) -> int | None:
        """Tokens of the known closing."""
        return None if self._closing is None else len(self._closing)

    def allows(self, matcher: "LLMatcher", token_id: int) -> bool:
        """Whether the answer can end whole after a token that its matcher lets follow."""
        if not self._spellings.has(token_id):
            return False
        left = self._left - 1
        is_near = left <= self._looks_at or getattr(matcher, "is_within", False)
        is_due = is_near and bool(self._spellings.bytes_of[token_id])
        closing = self._after(matcher, token_id, left) if is_due else None
        if is_due and closing is None and self._closing is not None:
            return False
        self._next = _Allowed(token_id, closing, is_due)
        return True

    def way_out(self, matcher: "LLMatcher", token_id: int) -> int:
        """The closing's next token, else an end; the token itself if neither is known."""
        known = self._closing.token_ids if self._closing is not None else ()
        ends = [end for end in self._end_ids if matcher.validate_tokens([end])]
        for way in (*known[:1], *ends, token_id):
            if self.allows(matcher, way):
                return way
        return token_id

    def accepted(self, token_id: int) -> None:
        """Go on past a token, which was allowed."""
        allowed, self._next = self._next, None
        self._left -= 1
        self._steps_left = MAX_STEPS_A_TOKEN
        self._closing = None
        if allowed is not None and allowed.token_id == token_id and allowed.was_due:
            self._closing = allowed.closing
            self._looks_at = self._left - (SELDOM if self._closing is None else 1)

    def _after(self, matcher: "LLMatcher", token_id: int, left: int) -> Closing | None:
        """A closing of at most so many tokens after a token."""
        spelt, known = self._spellings.bytes_of[token_id], self._closing
        if known is not None:
            if known.token_ids[:1] == (token_id,):
                return Closing(known.token_ids[1:], known.text[len(spelt) :])
            if known.text.startswith(spelt):
                return self._fitting(known.text[len(spelt) :], left)
            if len(known) > left:
                return None
        after = matcher.deep_copy()
        if not after.consume_token(token_id):
            return None
        if after.is_accepting():
            return Closing((), b"")
        if known is not None and ends_whole(after, known.token_ids):
            return known
        tails = () if known is None else self._tails(known)
        if self._steps_left <= 0:
            return None
        search = Search(self._spellings, min(MAX_STEPS, self._steps_left), self._matches)
        found = search.closing(after, enough=left, tails=tails)
        self._steps_left -= search.num_steps
        return found if found is not None and len(found) <= left else None

    def _tails(self, known: Closing) -> list[Closing]:
        """Parts of a closing that another way may lead to: from where a value ends, mostly."""
        places = itertools.islice(_VALUE_ENDS.finditer(known.text, 1), MAX_TAILS)
        texts = [known.text[place.start() :] for place in places]
        return [tail for text in texts if (tail := self._fitting(text, len(text))) is not None]

    def _fitting(self, text: bytes, left: int) -> Closing | None:
        token_ids = self._spellings.fewest(text)
        return None if token_ids is None or len(token_ids) > left else Closing(token_ids, text)
