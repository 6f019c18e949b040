"""Waits for what another thread or process does: polls with a deadline."""

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], object], what: str = "the condition", *, timeout_s: float = 20.0
) -> None:
    """Poll until the condition is true; fails with ``what`` after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.002)
