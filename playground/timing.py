"""How fast an answer came: its pace, and a stopwatch where the service does not say it."""

import dataclasses
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """Length of an answer and the times, from being asked to its first and its last token."""

    num_tokens: int
    ttft_s: float | None
    total_s: float

    @property
    def tokens_per_s(self) -> float | None:
        """Of decoding: tokens after the first over the time that they took; None without any."""
        if self.ttft_s is None or self.num_tokens < 2 or self.total_s <= self.ttft_s:
            return None
        return (self.num_tokens - 1) / (self.total_s - self.ttft_s)


class Stopwatch:
    """Runs from its making; OpenAI's protocol tells no times, so they are taken on this side."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._first: float | None = None

    def saw_text(self) -> None:
        """Text came; the first time counts."""
        if self._first is None:
            self._first = self._clock()

    def pace(self, num_tokens: int) -> Pace:
        """Of an answer that ends now."""
        ttft_s = None if self._first is None else self._first - self._begun
        return Pace(num_tokens=num_tokens, ttft_s=ttft_s, total_s=self._clock() - self._begun)
