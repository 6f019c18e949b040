"""Lists a row's tokens at or above a bound in vocabulary order, and reads them in tiles."""

import triton
import triton.language as tl

from service.engine.gpu.sampling.kernels.values import row_values


@triton.jit
def list_groups(peak, bound, group_list):
    """Writes the groups that reach a bound, ascending, and returns how many they are."""
    groups: tl.constexpr = peak.shape[0]
    reaches = (peak >= bound).to(tl.int32)
    at = tl.cumsum(reaches) - reaches
    tl.store(group_list + at, tl.arange(0, groups), mask=reaches != 0)
    tl.debug_barrier()
    return tl.sum(reaches)


@triton.jit
def list_tokens(
    row, bound, num_groups, group_list, value_list, id_list, V, CAPACITY,
    GROUP: tl.constexpr, TILE: tl.constexpr, ADJUSTED: tl.constexpr,
):  # fmt: skip
    """Writes values and ids of the tokens that reach a bound, ascending by id; how many they are.

    No more than ``CAPACITY`` are written.
    """
    size = 0
    start = 0
    while start < num_groups * GROUP:
        place = start + tl.arange(0, TILE)
        is_there = place < num_groups * GROUP
        group = tl.load(group_list + place // GROUP, mask=is_there, other=0)
        token_ids = group * GROUP + place % GROUP
        values = row_values(row, token_ids, is_there & (token_ids < V), ADJUSTED)
        reaches = (values >= bound).to(tl.int32)
        at = size + tl.cumsum(reaches) - reaches
        is_written = (reaches != 0) & (at < CAPACITY)
        tl.store(value_list + at, values, mask=is_written)
        tl.store(id_list + at, token_ids, mask=is_written)
        size += tl.sum(reaches)
        start += TILE
    tl.debug_barrier()
    return size


@triton.jit
def tile_values(candidates, start, TILE: tl.constexpr, ADJUSTED: tl.constexpr):
    """Values of ``TILE`` candidates from a place on; -inf past the last and below the bound.

    ``candidates`` is (is listed, list of values, how many, bound, row): where there are more than
    the list has room for, they are read from the row itself, and a place is a token id.
    """
    is_listed, value_list, size, bound, row = candidates
    place = start + tl.arange(0, TILE)
    if is_listed:
        values = tl.load(value_list + place, mask=place < size, other=-float("inf"))
    else:
        values = row_values(row, place, place < size, ADJUSTED)
    return tl.where(values >= bound, values, -float("inf"))


@triton.jit
def count_and_mass(candidates, least, top, TILE: tl.constexpr, ADJUSTED: tl.constexpr):
    """How many candidates are at least a value, and their weights' sum in float64."""
    size = candidates[2]
    count = 0
    mass = tl.full((), 0.0, tl.float64)
    start = 0
    while start < size:
        values = tile_values(candidates, start, TILE, ADJUSTED)
        reaches = values >= least
        count += tl.sum(reaches.to(tl.int32))
        mass += tl.sum(tl.where(reaches, tl.exp(values - top), 0.0).to(tl.float64))
        start += TILE
    return count, mass


@triton.jit
def least_and_most(candidates, low, high, TILE: tl.constexpr, ADJUSTED: tl.constexpr):
    """Smallest and largest candidate in [low, high)."""
    size = candidates[2]
    least = high
    most = low
    start = 0
    while start < size:
        values = tile_values(candidates, start, TILE, ADJUSTED)
        is_between = (values >= low) & (values < high)
        least = tl.minimum(least, tl.min(tl.where(is_between, values, high)))
        most = tl.maximum(most, tl.max(tl.where(is_between, values, low)))
        start += TILE
    return least, most
