"""How many tokens of a prompt fit a time: learned from the durations of steps, without a clock.

A step takes what its decoding rows take, and then a time for each token of a prompt that differs
by the machine, the model and whether the prompt is scored. Both are averages of recent steps, so
that they follow a machine that becomes busy. The same durations give the same chunks.
"""

import dataclasses

FIRST_CHUNK = 32
"""Tokens of a prompt in the first step beside streams, while nothing is known."""
SMALLEST_CHUNK = 8
"""Tokens that a prompt gets in any case: on the slowest machine it comes to its end, too."""
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

    def observe(self, num_decoding: int, num_plain: int, num_scored: int, seconds: float) -> None:
        """Learn from a step: its decoding rows, its prompts' tokens by kind, and its duration."""
        if not num_plain + num_scored:
            size = num_decoding.bit_length()
            known = self._decoding.get(size, seconds)
            self._decoding[size] = MEMORY * known + (1 - MEMORY) * seconds
            return
        spent = max(0.0, seconds - self._decoding_s(num_decoding))
        expected = {False: self.seconds(num_plain, is_scored=False)}
        expected[True] = self.seconds(num_scored, is_scored=True)
        total = sum(expected.values())
        for is_scored, count in ((False, num_plain), (True, num_scored)):
            if count:
                share = spent * expected[is_scored] / total if total else spent
                self._costs.setdefault(is_scored, _Cost(0.0, 0.0)).add(share, count)

    def _of_a_token(self, *, is_scored: bool) -> float:
        cost = self._costs.get(is_scored)
        return self.bound_s / FIRST_CHUNK if cost is None else cost.of_a_token

    def _decoding_s(self, num_rows: int) -> float:
        """Of the nearest number of rows, not a larger one, that is known."""
        sizes = [size for size in self._decoding if size <= num_rows.bit_length()]
        return self._decoding[max(sizes)] if num_rows and sizes else 0.0
