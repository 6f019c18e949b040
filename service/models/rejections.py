"""What was refused, and why: said once, counted once, not tried again until it changes.

A refusal that may pass by itself (a disk that fails, memory that is short) is tried again after
some looks; looks are counted, not seconds, since clocks jump.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping

RETRY_AFTER_LOOKS = {"read_error": 20, "no_room": 1, "vanished": 120}
"""For reasons that are not the checkpoint's fault. What vanished is shown for so many looks."""

logger = logging.getLogger(__name__)

Key = tuple[str, int]
"""Run and step."""


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why a step is not served."""

    reason: str
    message: str
    identity: tuple[object, ...]
    """What must change before the step is tried, and counted, again."""
    looks_left: int | None = None
    """Looks until it is tried again though nothing changed; ``None`` is never."""


class Refusals:
    """Remembers refusals. One thread writes; the table is replaced, so that others may iterate."""

    def __init__(self, on_refused: Callable[[str], None]) -> None:
        self._on_refused = on_refused
        self.table: Mapping[Key, Refusal] = {}

    def add(self, key: Key, reason: str, message: str, identity: tuple[object, ...]) -> None:
        """Remember why a step is not served; the same again is neither said nor counted."""
        known = self.table.get(key)
        refusal = Refusal(reason, message, identity, RETRY_AFTER_LOOKS.get(reason))
        if refusal == known:  # as most are, at each look
            return
        self.table = {**self.table, key: refusal}
        if known is None or (known.reason, known.identity) != (reason, identity):
            self._on_refused(reason)
            run, step = key
            logger.warning("refused step %d of run %s (%s): %s", step, run, reason, message)

    def stands(self, key: Key, identity: tuple[object, ...]) -> Refusal | None:
        """Why a step was refused as it is now, unless it is to be tried again."""
        refusal = self.table.get(key)
        if refusal is None or refusal.identity != identity or refusal.looks_left == 0:
            return None
        return refusal

    def forget(self, key: Key) -> None:
        """The step is good."""
        self.table = {other: refusal for other, refusal in self.table.items() if other != key}

    def on_look(self, run: str, present: Iterable[int]) -> None:
        """Count a look at a run; drop what is gone, and was not lately.

        All steps gone at once is a volume that is not mounted, and nothing is forgotten.
        """
        numbers = set(present)
        self.table = {
            key: _one_look_less(refusal)
            for key, refusal in self.table.items()
            if key[0] != run or not numbers or key[1] in numbers or refusal.looks_left
        }


def _one_look_less(refusal: Refusal) -> Refusal:
    if not refusal.looks_left:
        return refusal
    return dataclasses.replace(refusal, looks_left=refusal.looks_left - 1)
