"""Which of the sampler's kernels the rows of a step need."""

import enum
from collections.abc import Iterable

from lm.sampling import SamplingParams


class Variant(enum.Enum):
    """Ordered by what they do beside their first: each draws the rows of those before it, too."""

    GREEDY = "greedy"
    TEMPERATURE = "temperature"
    FILTERED = "filtered"
    ADJUSTED_GREEDY = "adjusted greedy"
    ADJUSTED_TEMPERATURE = "adjusted temperature"
    ADJUSTED_FILTERED = "adjusted filtered"

    @property
    def draws(self) -> bool:
        """Whether rows may have a temperature."""
        return self not in (Variant.GREEDY, Variant.ADJUSTED_GREEDY)

    @property
    def filters(self) -> bool:
        """Whether rows may have top-k, top-p or min-p."""
        return self in (Variant.FILTERED, Variant.ADJUSTED_FILTERED)

    @property
    def adjusts(self) -> bool:
        """Whether rows may have a bias, penalties or banned tokens."""
        return self.value.startswith("adjusted")

    @staticmethod
    def least(params: Iterable[SamplingParams], *, adjusts: bool) -> "Variant":
        """The cheapest one for some rows; ``adjusts`` where any has bits in ``rows.adjust``."""
        drawn = [p for p in params if not p.is_greedy]
        filters = any(p.top_k or p.top_p < 1.0 or p.min_p for p in drawn)
        name = "filtered" if filters else "temperature" if drawn else "greedy"
        return Variant(f"adjusted {name}" if adjusts else name)
