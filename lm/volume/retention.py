"""Which steps stay: a pure decision over step numbers.

Full state is kept for the newest and the best; milestones keep their weights alone, so that old
steps can be compared and pinned.
"""

import dataclasses
from collections.abc import Collection


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retention:
    """How much history a run keeps."""

    keep_last: int = 3
    """Newest steps that stay whole; at least 2, so that a reader never loses its step."""
    keep_every: int | None = None
    """Multiples of this stay as milestones."""
    keep_steps: tuple[int, ...] = ()
    """These stay as milestones."""

    def __post_init__(self) -> None:
        """Refuse what would leave a reader without a step."""
        if self.keep_last < 2:
            raise ValueError(f"keep_last must be at least 2, got {self.keep_last}")
        if self.keep_every is not None and self.keep_every < 1:
            raise ValueError(f"keep_every must be positive, got {self.keep_every}")


@dataclasses.dataclass(frozen=True)
class Kept:
    """Steps that stay whole, and steps whose weights alone stay."""

    full: frozenset[int]
    milestones: frozenset[int]


def steps_to_keep(steps: Collection[int], best: int | None, retention: Retention) -> Kept:
    """Decide which of the published steps stay; the newest and the best always do."""
    newest = sorted(steps)[-retention.keep_last :]
    full = set(newest)
    if best is not None and best in steps:
        full.add(best)
    every = retention.keep_every
    milestones = {
        step
        for step in steps
        if step not in full
        and (step in retention.keep_steps or (every is not None and step % every == 0))
    }
    return Kept(frozenset(full), frozenset(milestones))
