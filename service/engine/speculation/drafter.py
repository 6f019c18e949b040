"""How many guesses one stream gets: as many as are likely enough to be worth their rows.

Every guess is scored by what came, also one that no step has verified. So a stream that does not
repeat itself is found out, and later found to have begun to, without spending a row.
"""

from service.engine.scheduling.sequence import Sequence
from service.engine.speculation.lookup import LENGTHS, NgramIndex

MAX_GUESSES = 8
ROW_COST = 0.18
"""What one more row adds to a step, in steps of one row; a guess must be likelier than that."""
FIRST_CHANCE = 0.3
MEMORY = 0.8
"""Share that an estimate keeps when a guess is scored."""


class Drafter:
    """Guesses for one sequence, and how good they were."""

    def __init__(self) -> None:
        self._index = NgramIndex()
        self._guesses: tuple[int, ...] = ()
        self._length = 0
        """Tokens that the last guesses were found by."""
        self._chances = dict.fromkeys(LENGTHS, FIRST_CHANCE)
        """That the next guess is right, by the number of tokens it is found by."""
        self.has_given_up = False
        """Whether it guesses no more."""

    def draft(self, sequence: Sequence, limit: int) -> tuple[int, ...]:
        """Guesses that are worth verifying, at most ``limit``."""
        if self.has_given_up:
            return ()
        new = sequence.tokens(self._index.num_tokens, sequence.num_tokens)
        self._score(new)
        self._index.extend(new)
        self._length, self._guesses = self._index.lookup(MAX_GUESSES)
        return self._guesses[: min(limit, self._num_worthwhile())]

    def _score(self, token_ids: tuple[int, ...]) -> None:
        """Learn from what came after the last guesses, up to the first wrong one."""
        for guess, token_id in zip(self._guesses, token_ids, strict=False):
            is_right = guess == token_id
            chance = self._chances[self._length]
            self._chances[self._length] = MEMORY * chance + (1 - MEMORY) * is_right
            if not is_right:
                return

    def _num_worthwhile(self) -> int:
        """Guesses before the chance that all so far are right falls below the cost of a row."""
        chance = self._chances.get(self._length, 0.0)
        reach, count = chance, 0
        while reach > ROW_COST and count < MAX_GUESSES:
            reach *= chance
            count += 1
        return count
