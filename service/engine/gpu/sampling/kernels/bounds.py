"""A value that no token kept by top-k, top-p or min-p lies below, from the groups alone.

It needs not be tight: it decides how many tokens are looked at again, not which of them are kept.
"""

import triton
import triton.language as tl


@triton.jit
def top_k_bound(peak, top, k, NEGLIGIBLE: tl.constexpr, STEPS: tl.constexpr):
    """As many groups as k have a peak of at least this, so as many tokens are at least this.

    Never further below the likeliest than ``NEGLIGIBLE``: no draw reaches what has less weight.
    """
    low = top - NEGLIGIBLE
    high = top
    count = k * 2 + 16
    step = 0
    while (step < STEPS) & (count > k + k // 4 + 4):
        middle = low + 0.5 * (high - low)
        reached = tl.sum((peak >= middle).to(tl.int32))
        is_enough = reached >= k
        count = tl.where(is_enough, reached, count)
        low = tl.where(is_enough, middle, low)
        high = tl.where(is_enough, high, middle)
        step += 1
    return low


@triton.jit
def top_p_bound(
    peak, summed, top, p, GROUP: tl.constexpr, NEGLIGIBLE: tl.constexpr, STEPS: tl.constexpr
):
    """All tokens below this have less weight together than top-p may drop.

    What a group with a peak above the bound has below it is at most what it has beside its peak,
    and at most ``GROUP`` - 1 times the weight at the bound.
    """
    scales = tl.exp(peak - top)
    weights = summed * scales
    besides = weights - scales
    droppable = (0.999 * (1.0 - p) * tl.sum(weights.to(tl.float64))).to(tl.float32)
    low = top - NEGLIGIBLE
    high = top
    for _ in range(STEPS):
        middle = low + 0.5 * (high - low)
        most = (GROUP - 1) * tl.exp(middle - top)
        below = tl.sum(tl.where(peak < middle, weights, tl.minimum(besides, most)))
        low = tl.where(below <= droppable, middle, low)
        high = tl.where(below <= droppable, high, middle)
    return low
