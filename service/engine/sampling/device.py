"""Draws for many rows at once where the logits are: a GPU's need not travel to be drawn from.

The definition is ``lm.sampling``, row by row; on a CPU ``service.engine.sampling.rows`` is faster.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lm.sampling import SamplingParams, counter_uniform


def sample_rows(
    logits: Tensor, params: Sequence[SamplingParams], indices: Sequence[int]
) -> list[int]:
    """A token for each row of logits [R, V], none of them greedy; waits for the device once.

    ``indices`` are the tokens' in their outputs.
    """
    values = logits.float() / _column(logits, [p.temperature for p in params])
    if any(0 < p.top_k < logits.shape[-1] for p in params):
        values = _top(values, [p.top_k or logits.shape[-1] for p in params])
    if any(p.top_p < 1.0 for p in params):
        values = _nucleus(values, [p.top_p for p in params])
    if any(p.min_p > 0.0 for p in params):
        floors = [math.log(p.min_p) if p.min_p else -math.inf for p in params]
        lowest = values.amax(-1, keepdim=True) + _column(logits, floors)
        values = values.masked_fill(values < lowest, -torch.inf)
    cumulative = values.double().softmax(-1).cumsum(-1)
    uniforms = [counter_uniform(p.seed, i) for p, i in zip(params, indices, strict=True)]
    thresholds = _column(logits, uniforms, torch.float64) * cumulative[:, -1:]
    places = torch.searchsorted(cumulative, thresholds, right=True)
    token_ids: list[int] = places.clamp(max=logits.shape[-1] - 1)[:, 0].tolist()
    return token_ids


def _column(like: Tensor, values: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
    """[R, 1] on the device of another tensor."""
    return torch.tensor(values, dtype=dtype).to(like.device, non_blocking=True)[:, None]


def _top(values: Tensor, counts: list[int]) -> Tensor:
    """Values [R, V] with all but each row's ``counts`` largest at -inf; equals of the last stay."""
    vocab_size = values.shape[-1]
    deepest = max(count for count in counts if count < vocab_size)
    largest = values.topk(deepest).values
    places = torch.tensor([min(count, deepest) - 1 for count in counts]).to(values.device)
    keeps_all = torch.tensor([count >= vocab_size for count in counts]).to(values.device)
    smallest = largest.gather(-1, places[:, None]).masked_fill(keeps_all[:, None], -torch.inf)
    return values.masked_fill(values < smallest, -torch.inf)


def _nucleus(values: Tensor, shares: list[float]) -> Tensor:
    """Values [R, V] with what each row's top-p drops at -inf; the likeliest always stays."""
    ordered, order = values.sort(descending=True, stable=True)
    cumulative = (ordered.double() - ordered[:, :1]).exp().cumsum(-1)
    reached = _column(values, shares, torch.float64) * cumulative[:, -1:]
    dropped = cumulative.roll(1, dims=-1) >= reached
    dropped[:, 0] = False
    # A share of 1 drops nothing, not even what rounding would.
    dropped &= _column(values, shares, torch.float64) < 1.0
    return values.masked_fill(dropped.scatter(-1, order, dropped), -torch.inf)
