"""A token drawn from what top-k, then top-p, then min-p leave of a row."""

import triton
import triton.language as tl

from service.engine.gpu.sampling.bounds_kernels import top_k_bound, top_p_bound
from service.engine.gpu.sampling.candidates_kernels import (
    count_and_mass,
    list_groups,
    list_tokens,
    tile_values,
)


@triton.jit
def key_of(value):
    """An integer that orders as the float32 does."""
    bits = value.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def value_of(key):
    """The float32 of a key."""
    bits = key.to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def top_k_edge(candidates, top, k, TILE: tl.constexpr, ADJUSTED: tl.constexpr):
    """Key of the smallest value that stays, count and weight of what does: k, or more by ties."""
    low = key_of(candidates[3])
    high = key_of(top) + 1
    count, mass = count_and_mass(candidates, candidates[3], top, TILE, ADJUSTED)
    while (high - low > 1) & (count > k):
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
    while (high - low > 1) & (count - above > 1):
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
def filtered_token(
    row, peak, summed, top, uniform, k, p, log_min_p, group_list, value_list, id_list, V, CAPACITY,
    GROUP: tl.constexpr, TILE: tl.constexpr, NEGLIGIBLE: tl.constexpr, STEPS: tl.constexpr,
    ADJUSTED: tl.constexpr,
):  # fmt: skip
    """The token drawn; ``k`` is V where top-k is off, ``p`` at least 1 where top-p is.

    ``log_min_p`` is -inf where min-p is off. The lists are room for this row alone.
    """
    floor = top + log_min_p
    if k < V:
        bound = top_k_bound(peak, top, k, NEGLIGIBLE, STEPS)
    elif p < 1.0:
        bound = top_p_bound(peak, summed, top, p, GROUP, NEGLIGIBLE, STEPS)
    else:
        bound = tl.maximum(floor, top - NEGLIGIBLE)
    num_groups = list_groups(peak, bound, group_list)
    size = list_tokens(
        row, bound, num_groups, group_list, value_list, id_list, V, CAPACITY, GROUP, TILE, ADJUSTED
    )
    is_listed = size <= CAPACITY
    size = tl.where(is_listed, size, V)
    candidates = (is_listed, value_list, size, bound, row)
    low, count, mass = top_k_edge(candidates, top, k, TILE, ADJUSTED)
    high = key_of(top) + 1
    quota = count
    if p < 1.0:
        if k >= V:  # what lies below the bound counts, too
            mass = tl.sum(summed.to(tl.float64) * tl.exp(peak - top).to(tl.float64))
        low, high, quota = top_p_edge(candidates, top, low, count, p * mass, TILE, ADJUSTED)
    edge = (value_of(low), value_of(high), quota, floor)
    place = place_in_kept(candidates, edge, top, uniform, TILE, ADJUSTED)
    token = place
    if is_listed:
        token = tl.load(id_list + place)
    return tl.minimum(token, V - 1)
