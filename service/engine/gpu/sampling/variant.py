"""Which of the sampler's kernels the rows of a step need."""

import enum


class Variant(enum.Enum):
    """A variant draws the rows that ask for no more than its name says; others it draws wrongly."""

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
