"""Finds what top-k, then top-p, then min-p leave of many candidates, and draws from it.

The edges are found by bisection over the float32 numbers, in passes over the candidates.
"""

import triton
import triton.language as tl

from service.engine.gpu.sampling.kernels.candidates import (
    count_and_mass,
    least_and_most,
    tile_values,
)

SHRINK_EVERY = tl.constexpr(6)
"""Steps of a bisection after which it looks which numbers are left: equal ones end it."""


@triton.jit
def key_of(value):
    """An integer that orders as the float32 does; both zeros have one key."""
    value = tl.where(value == 0.0, 0.0, value)
    bits = value.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def value_of(key):
    """The float32 of a key."""
    bits = key.to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def shrunk(candidates, low, high, TILE: tl.constexpr, ADJUSTED: tl.constexpr):
    """Keys [low, high) without what no candidate between them needs; there is one at least."""
    least, most = least_and_most(candidates, value_of(low), value_of(high), TILE, ADJUSTED)
    return key_of(least), key_of(most) + 1


@triton.jit
def top_k_edge(candidates, top, k, TILE: tl.constexpr, ADJUSTED: tl.constexpr):
    """Key of the smallest value that stays, count and weight of what does: k, or more by ties."""
    low = key_of(candidates[3])
    high = key_of(top) + 1
    count, mass = count_and_mass(candidates, candidates[3], top, TILE, ADJUSTED)
    step = 0
    while (high - low > 1) & (count > k):
        step += 1
        if step % SHRINK_EVERY == 0:
            low, high = shrunk(candidates, low, high, TILE, ADJUSTED)
        middle = (low + high) >> 1
        reached, reached_mass = count_and_mass(candidates, value_of(middle), top, TILE, ADJUSTED)
        is_enough = reached >= k
        low = tl.where(is_enough, middle, low)
        high = tl.where(is_enough, high, middle)
        count = tl.where(is_enough, reached, count)
        mass = tl.where(is_enough, reached_mass, mass)
    return low, count, mass


@triton.jit
def top_p_edge(candidates, top, low, count, target, TILE: tl.constexpr, ADJUSTED: tl.constexpr):
    """Keys [low, high) of the edge of the smallest set that reaches a weight, and its quota.

    What is at least high stays; of what lies between the two, equal numbers or one alone, the
    first ``quota`` in vocabulary order.
    """
    high = key_of(top) + 1
    above = 0
    above_mass = target * 0.0
    step = 0
    while (high - low > 1) & (count - above > 1):
        step += 1
        if step % SHRINK_EVERY == 0:
            low, high = shrunk(candidates, low, high, TILE, ADJUSTED)
        middle = (low + high) >> 1
        reached, mass = count_and_mass(candidates, value_of(middle), top, TILE, ADJUSTED)
        is_enough = mass >= target
        low = tl.where(is_enough, middle, low)
        count = tl.where(is_enough, reached, count)
        high = tl.where(is_enough, high, middle)
        above = tl.where(is_enough, above, reached)
        above_mass = tl.where(is_enough, above_mass, mass)
    weight = tl.exp(value_of(low) - top).to(tl.float64)
    # Of several at the edge all have this weight; of one alone one stays, whatever is needed.
    needed = tl.minimum((target - above_mass) / weight, (count - above).to(tl.float64))
    quota = tl.ceil(needed).to(tl.int32)
    return low, high, tl.maximum(quota, 1)


@triton.jit
def kept_weights(values, edge, before, top):
    """Weights of a tile, 0 where dropped, and how many at the edge of top-p were met so far."""
    low, high, quota, floor = edge
    at_edge = (values >= low) & (values < high)
    rank = before + tl.cumsum(at_edge.to(tl.int32)) - 1
    is_kept = ((values >= high) | (at_edge & (rank < quota))) & (values >= floor)
    weights = tl.where(is_kept, tl.exp(values - top), 0.0)
    return weights.to(tl.float64), before + tl.sum(at_edge.to(tl.int32))


@triton.jit
def place_in_kept(candidates, edge, top, uniform, TILE: tl.constexpr, ADJUSTED: tl.constexpr):
    """Place among the candidates at which the cumulative weight of the kept passes ``uniform``."""
    size = candidates[2]
    total = uniform * 0.0
    met = 0
    start = 0
    while start < size:
        values = tile_values(candidates, start, TILE, ADJUSTED)
        weights, met = kept_weights(values, edge, met, top)
        total += tl.sum(weights)
        start += TILE
    threshold = uniform * total
    before = uniform * 0.0
    met = 0
    place = size
    last = 0
    start = 0
    while start < size:
        values = tile_values(candidates, start, TILE, ADJUSTED)
        weights, met = kept_weights(values, edge, met, top)
        places = start + tl.arange(0, TILE)
        is_beyond = (before + tl.cumsum(weights) > threshold) & (weights > 0)
        place = tl.minimum(place, tl.min(tl.where(is_beyond, places, size)))
        last = tl.maximum(last, tl.max(tl.where(weights > 0, places, 0)))
        before += tl.sum(weights)
        start += TILE
    return tl.where(place < size, place, last)


@triton.jit
def place_among_many(
    candidates, top, uniform, k, p, mass, floor, V, TILE: tl.constexpr, ADJUSTED: tl.constexpr
):
    """As ``rank.place_among_few``, for any number of candidates."""
    low, count, kept_mass = top_k_edge(candidates, top, k, TILE, ADJUSTED)
    if k < V:
        mass = kept_mass
    high = key_of(top) + 1
    quota = count
    if p < 1.0:
        low, high, quota = top_p_edge(candidates, top, low, count, p * mass, TILE, ADJUSTED)
    edge = (value_of(low), value_of(high), quota, floor)
    return place_in_kept(candidates, edge, top, uniform, TILE, ADJUSTED)
