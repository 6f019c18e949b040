"""When things happened to one request, and the latencies that follow from it.

All times are readings of one monotonic clock, in seconds. Defined here once, so that metrics and
responses cannot disagree.
"""

import dataclasses


@dataclasses.dataclass
class Timeline:
    """Moments of a request; ``None`` until they happen."""

    arrived: float
    """The HTTP layer had its first byte."""
    started: float | None = None
    """It left the queue."""
    first_token: float | None = None
    last_token: float | None = None
    finished: float | None = None

    def on_token(self, at: float, num_left: int = 1) -> float | None:
        """Record a token; returns the inter-token latency, ``None`` for the first token.

        Of a step that brought several, ``num_left`` counts those from this one on: they share
        the time since the step before evenly.
        """
        if self.last_token is None:
            self.first_token = self.last_token = at
            return None
        gap = (at - self.last_token) / num_left
        self.last_token = at if num_left == 1 else self.last_token + gap
        return gap

    @property
    def queue_s(self) -> float | None:
        """From arrival until its prompt was being computed."""
        return _between(self.arrived, self.started)

    @property
    def prefill_s(self) -> float | None:
        """From leaving the queue until the first token."""
        return _between(self.started, self.first_token)

    @property
    def decode_s(self) -> float | None:
        """From the first token until the last."""
        return _between(self.first_token, self.last_token)

    @property
    def ttft_s(self) -> float | None:
        """From arrival until the first token (TTFT)."""
        return _between(self.arrived, self.first_token)

    @property
    def total_s(self) -> float | None:
        """From arrival until the end (E2E)."""
        return _between(self.arrived, self.finished)


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start
