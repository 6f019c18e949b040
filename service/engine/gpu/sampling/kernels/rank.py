"""Draws from a few listed tokens: each is compared with each, so that nothing is searched for."""

import triton
import triton.language as tl

from service.engine.gpu.sampling.kernels.draw import first_beyond

CHUNK = tl.constexpr(32)
"""Tokens that all are compared with at a time: more take more registers."""


@triton.jit
def place_among_few(value_list, size, top, uniform, k, p, mass, floor, V, FEW: tl.constexpr):
    """Place in the list of the token drawn; at most ``FEW`` are listed, in vocabulary order.

    ``FEW`` is a multiple of ``CHUNK``. ``mass`` is the weight that top-p is a share of where top-k
    is off (``k`` is V).
    """
    places = tl.arange(0, FEW)
    values = tl.load(value_list + places, mask=places < size, other=-float("inf"))
    greater = tl.zeros((FEW,), tl.int32)
    before = tl.zeros((FEW,), tl.float64)
    for start in range(0, FEW, CHUNK):
        others = start + tl.arange(0, CHUNK)
        other = tl.load(value_list + others, mask=others < size, other=-float("inf"))[None, :]
        is_greater = other > values[:, None]
        greater += tl.sum(is_greater.to(tl.int32), 1)
        # In stable descending order; what top-k drops comes after all that stays.
        is_first = (other == values[:, None]) & (others[None, :] < places[:, None])
        weights = tl.where(is_greater | is_first, tl.exp(other - top), 0.0)
        before += tl.sum(weights.to(tl.float64), 1)
    stays = (greater < k) & (places < size)
    weights = tl.where(stays, tl.exp(values - top), 0.0).to(tl.float64)
    if k < V:
        mass = tl.sum(weights)
    reached = tl.where(p < 1.0, p * mass, float("inf"))
    weights = tl.where((before < reached) & (values >= floor), weights, 0.0)
    cumulative = tl.cumsum(weights)
    return first_beyond(weights, cumulative, uniform * tl.sum(weights), places, FEW)
