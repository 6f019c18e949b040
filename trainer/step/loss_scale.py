"""The factor that keeps float16 gradients representable: halved at an overflow, later doubled.

The policy of ``torch.amp.GradScaler`` as pure functions over two numbers of the run's counters,
so that it is saved and resumed with them. Only float16 has a scale.
"""

INITIAL_SCALE = 2.0**16
GROWTH_INTERVAL = 2000
"""Steps without an overflow after which the scale is tried twice as high."""


def next_scale(scale: float, steps: int, *, skipped: bool) -> tuple[float, int]:
    """Scale and steps taken at it, after a step that could be used or had to be skipped."""
    if skipped:
        return max(1.0, scale / 2), 0
    if steps + 1 >= GROWTH_INTERVAL:
        return scale * 2, 0
    return scale, steps + 1
