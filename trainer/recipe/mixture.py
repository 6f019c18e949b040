"""Which source each sequence comes from, so evenly that no stretch of training is off its mix.

Tijdeman's solution of the chairman assignment problem (Discrete Mathematics 32, 1980): after any
number of sequences each source's count is within 1 of its share, hence within 2 in any
stretch. Weights are fractions, so the assignment repeats and one period is a small table: any
sequence in constant time.
"""

import fractions
import math
from collections.abc import Mapping

MAX_PERIOD = 100_000
_MAX_DENOMINATOR = 10_000
_TOLERANCE = 1e-6


def exact_shares(weights: Mapping[str, float]) -> dict[str, fractions.Fraction]:
    """Weights as fractions that sum to 1; sources of weight 0 are left out.

    Raises ``ValueError`` for a negative weight, a sum other than 1, or weights so fine that the
    mixture would not repeat within ``MAX_PERIOD`` sequences.
    """
    shares = {
        name: fractions.Fraction(weight).limit_denominator(_MAX_DENOMINATOR)
        for name, weight in weights.items()
    }
    for name, weight in weights.items():
        if weight < 0:
            raise ValueError(f"the weight of {name!r} is negative: {weight}")
    if abs(sum(weights.values()) - 1) > _TOLERANCE:
        raise ValueError(f"weights must sum to 1, they sum to {sum(weights.values()):g}")
    period = math.lcm(*(share.denominator for share in shares.values()))
    if sum(shares.values()) != 1 or period > MAX_PERIOD:
        raise ValueError(f"weights {dict(weights)} are too fine: use at most four decimals")
    return {name: share for name, share in shares.items() if share}


class Mixture:
    """An endless assignment of sequences to sources by fixed weights."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        shares = exact_shares(weights)
        self.names = tuple(shares)
        self.period = math.lcm(*(share.denominator for share in shares.values()))
        quotas = [int(share * self.period) for share in shares.values()]
        self._sources = _assign(quotas)
        self._counts = [[0] * len(quotas)]
        for source in self._sources:
            self._counts.append(self._counts[-1].copy())
            self._counts[-1][source] += 1

    def source(self, sequence: int) -> str:
        """Name of the source that a sequence comes from."""
        return self.names[self._sources[sequence % self.period]]

    def count(self, name: str, num_sequences: int) -> int:
        """How many of the first sequences come from a source."""
        if name not in self.names:
            return 0
        source = self.names.index(name)
        periods, rest = divmod(num_sequences, self.period)
        return periods * self._counts[-1][source] + self._counts[rest][source]


def _assign(quotas: list[int]) -> list[int]:
    """Sources of one period; each gets its quota, spread as evenly as can be."""
    period, slack = sum(quotas), 2 * len(quotas) - 2
    if slack == 0:
        return [0] * period
    taken = [0] * len(quotas)
    order = []
    for turn in range(1, period + 1):
        # What a source is owed, in units of 1 / (period * slack) of a sequence.
        owed = [(q * turn - period * t) * slack for q, t in zip(quotas, taken, strict=True)]
        ready = [source for source, debt in enumerate(owed) if debt >= period]
        # The one that is first in danger of falling behind by a whole sequence.
        chosen = min(
            ready,
            key=lambda s: fractions.Fraction(period * (slack - 1) - owed[s], quotas[s]),
        )
        taken[chosen] += 1
        order.append(chosen)
    return order
