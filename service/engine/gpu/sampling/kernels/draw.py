"""The likeliest token of a row, and a token drawn from all of a row, out of its groups."""

import triton
import triton.language as tl

from service.engine.gpu.sampling.kernels.values import row_values


@triton.jit
def likeliest_token(row, peak, top, V, GROUP: tl.constexpr, ADJUSTED: tl.constexpr):
    """The first token of the largest value; ``peak`` [groups] is -inf past the last group."""
    groups: tl.constexpr = peak.shape[0]
    group = tl.min(tl.where(peak == top, tl.arange(0, groups), groups))
    token_ids = tl.minimum(group, groups - 1) * GROUP + tl.arange(0, GROUP)
    values = row_values(row, token_ids, token_ids < V, ADJUSTED)
    return tl.minimum(tl.min(tl.where(values == top, token_ids, V)), V - 1)


@triton.jit
def first_beyond(weights, cumulative, threshold, places, END):
    """The first place whose cumulative weight is beyond a threshold, else the last with weight.

    A place without weight is never taken: a parallel scan may round its sum up.
    """
    first = tl.min(tl.where((cumulative > threshold) & (weights > 0), places, END))
    last = tl.max(tl.where(weights > 0, places, 0))
    return tl.where(first < END, first, last)


@triton.jit
def drawn_token(row, peak, summed, top, uniform, V, GROUP: tl.constexpr, ADJUSTED: tl.constexpr):
    """The token at which the cumulative distribution over the vocabulary passes ``uniform``."""
    groups: tl.constexpr = peak.shape[0]
    places = tl.arange(0, groups)
    scales = tl.exp(peak - top).to(tl.float64)
    weights = summed.to(tl.float64) * scales
    threshold = uniform * tl.sum(weights)
    group = first_beyond(weights, tl.cumsum(weights), threshold, places, groups)
    before = tl.sum(tl.where(places < group, weights, 0.0))
    scale = tl.sum(tl.where(places == group, scales, 0.0))
    own_peak = tl.max(tl.where(places == group, peak, -float("inf")))
    inner = tl.arange(0, GROUP)
    token_ids = group * GROUP + inner
    values = row_values(row, token_ids, token_ids < V, ADJUSTED)
    within = tl.exp(values - own_peak).to(tl.float64)
    left = (threshold - before) / scale
    place = first_beyond(within, tl.cumsum(within), left, inner, GROUP)
    return tl.minimum(group * GROUP + place, V - 1)
