"""A token drawn from what top-k, then top-p, then min-p leave of a row."""

import triton
import triton.language as tl

from service.engine.gpu.sampling.kernels.bounds import top_k_bound, top_p_bound
from service.engine.gpu.sampling.kernels.candidates import list_groups, list_tokens
from service.engine.gpu.sampling.kernels.edges import place_among_many
from service.engine.gpu.sampling.kernels.rank import place_among_few


@triton.jit
def filtered_token(
    row, peak, summed, top, uniform, k, p, log_min_p, group_list, value_list, id_list, V, CAPACITY,
    GROUP: tl.constexpr, TILE: tl.constexpr, FEW: tl.constexpr, NEGLIGIBLE: tl.constexpr,
    STEPS: tl.constexpr, ADJUSTED: tl.constexpr,
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
    # Of all tokens: what lies below the bound counts for top-p, too.
    mass = tl.sum(summed.to(tl.float64) * tl.exp(peak - top).to(tl.float64))
    if size <= tl.minimum(FEW, CAPACITY):
        place = place_among_few(value_list, size, top, uniform, k, p, mass, floor, V, FEW)
    else:
        is_listed = size <= CAPACITY
        candidates = (is_listed, value_list, tl.where(is_listed, size, V), bound, row)
        place = place_among_many(candidates, top, uniform, k, p, mass, floor, V, TILE, ADJUSTED)
    token = place
    if size <= CAPACITY:
        token = tl.load(id_list + place)
    return tl.minimum(token, V - 1)
