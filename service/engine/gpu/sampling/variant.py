"""Which of the sampler's kernels the rows of a step need."""

import enum


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
    def of(*, draws: bool, filters: bool, adjusts: bool) -> "Variant":
        """The cheapest one that does this; filters mean nothing to rows that are all greedy."""
        name = "greedy" if not draws else "filtered" if filters else "temperature"
        return Variant(f"adjusted {name}" if adjusts else name)
