"""What fits a time beside streams: learned from the durations of steps, without a clock.

A step takes what its decoding rows take, then a time for each token of a prompt that differs by
the machine, the model and whether the prompt is scored, and one for each token that is held to a
structure. All are averages of recent steps, so that they follow a machine that becomes busy. The
same durations give the same steps.
"""

import dataclasses

FIRST_CHUNK = 32
"""Tokens of a prompt in the first step beside streams, while nothing is known."""
SMALLEST_CHUNK = 8
"""Tokens that a prompt gets in any case: on the slowest machine it comes to its end, too."""
FASTER_STRUCTURED = 2
"""Times as many tokens held to a structure as in any step before, at most: what one takes beyond a
step of decoding shows where steps with few and with more are compared."""
MEMORY = 0.8
"""Share of what was seen that is kept at each step: some five steps count."""

MOST_SLOWER = 4.0
"""Times its estimate that a token is believed to have taken: one step in which others had the
cores is forgotten soon, and a machine that became slow is known after a few."""


@dataclasses.dataclass
class _Cost:
    """Seconds and tokens of recent steps, the later ones with more weight."""

    seconds: float
    tokens: float

    @property
    def of_a_token(self) -> float:
        return self.seconds / self.tokens

    def add(self, seconds: float, tokens: int) -> None:
        """Large chunks say more about a token than small ones, and count for more."""
        if self.tokens:
            seconds = min(seconds, MOST_SLOWER * self.of_a_token * tokens or seconds)
        self.seconds = MEMORY * self.seconds + seconds
        self.tokens = MEMORY * self.tokens + tokens


class Pace:
    """Of one engine's steps."""

    def __init__(self, bound_s: float) -> None:
        """``bound_s``: what prompts may add to a step that streams wait for."""
        if not bound_s > 0:
            raise ValueError(f"the bound must be positive, got {bound_s}")
        self.bound_s = bound_s
        self._decoding: dict[int, float] = {}
        """Seconds of a step that only decodes, by the number of binary digits of its rows."""
        self._costs: dict[bool, _Cost] = {}
        """Of prompts' tokens, by whether they are scored."""
        self._most_structured = 1
        self._structured = _Cost(0.0, 0.0)
        """Of tokens that are held to a structure, beyond what decoding them takes."""

    def beside(self, num_decoding: int) -> float:
        """Seconds that prompts may add to a step with so many decoding rows.

        The bound, or as long as the rows themselves take where that is longer: with less, a slow
        machine would decode for most of the time while newcomers wait.
        """
        return max(self.bound_s, self._decoding_s(num_decoding))

    def fitting(self, seconds: float, *, is_scored: bool) -> int:
        """Tokens of a prompt that can be computed in a time."""
        cost = self._of_a_token(is_scored=is_scored)
        if seconds <= 0:
            return 0
        return int(min(seconds / cost, 1 << 30)) if cost else 1 << 30

    def seconds(self, num_tokens: int, *, is_scored: bool) -> float:
        """What so many tokens of a prompt are expected to take."""
        return num_tokens * self._of_a_token(is_scored=is_scored)

    def num_structured(self, num_decoding: int) -> int:
        """Tokens held to a structure that a step with so many decoding rows draws at most.

        What fits ``beside`` the rows, and one, however long it takes.
        """
        cost = self._structured
        if not cost.seconds:
            return self._most_structured
        return max(1, min(self._most_structured, int(self.beside(num_decoding) / cost.of_a_token)))

    def observe(
        self,
        num_decoding: int,
        num_plain: int,
        num_scored: int,
        seconds: float,
        *,
        num_structured: int = 0,
    ) -> None:
        """Learn from a step: its decoding rows, its prompts' tokens by kind, and its duration.

        ``num_structured``: of the tokens that it drew, those that are held to a structure.
        """
        if not num_plain + num_scored + num_structured:
            size = num_decoding.bit_length()
            known = self._decoding.get(size, seconds)
            self._decoding[size] = MEMORY * known + (1 - MEMORY) * seconds
            return
        if not num_plain + num_scored:
            self._learn_least(num_decoding, seconds)
        spent = max(0.0, seconds - self._decoding_s(num_decoding))
        expected = {False: self.seconds(num_plain, is_scored=False)}
        expected[True] = self.seconds(num_scored, is_scored=True)
        cost = self._structured
        structured = num_structured * (cost.of_a_token if cost.seconds else self.bound_s)
        total = sum(expected.values()) + structured
        for is_scored, count in ((False, num_plain), (True, num_scored)):
            if count:
                share = spent * expected[is_scored] / total if total else spent
                self._costs.setdefault(is_scored, _Cost(0.0, 0.0)).add(share, count)
        if num_structured:
            share = spent * structured / total if total else spent
            self._structured.add(share, num_structured)
            least = FASTER_STRUCTURED * num_structured
            self._most_structured = max(self._most_structured, least)

    def _learn_least(self, num_decoding: int, seconds: float) -> None:
        """Take the shortest step with structures for one of decoding, if nothing shorter is known.

        Where every answer has a structure there is no other, and what a large model takes for a
        step must not count as what its structures take.
        """
        size = num_decoding.bit_length()
        if size in self._decoding or not self._decoding_s(num_decoding):
            self._decoding[size] = min(self._decoding.get(size, seconds), seconds)

    def _of_a_token(self, *, is_scored: bool) -> float:
        cost = self._costs.get(is_scored)
        return self.bound_s / FIRST_CHUNK if cost is None else cost.of_a_token

    def _decoding_s(self, num_rows: int) -> float:
        """Of the nearest number of rows, not a larger one, that is known."""
        sizes = [size for size in self._decoding if size <= num_rows.bit_length()]
        return self._decoding[max(sizes)] if num_rows and sizes else 0.0
