"""Chooses the next token of every row of a step, looking at no more than it must.

The definition is ``lm.sampling``; a test holds the two together.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lm.sampling import SamplingParams, counter_uniform
from service.engine.request import TokenScore
from service.engine.request_faults import must_pass
from service.engine.sampling.device import sample_rows
from service.engine.scheduling.penalties import Penalties
from service.engine.scheduling.plan import Plan
from service.engine.scheduling.sequence import Sequence

EXACT_TOKENS = 4096
"""Probabilities of more are in float32, whose exponential is ten times as fast."""
BLOCK = 64

Floats = npt.NDArray[np.floating[Any]]
Places = npt.NDArray[np.intp]


def draw(logits: Tensor, plan: Plan) -> list[int]:
    """A token for each of the plan's draws, as if the guesses before it were right.

    Logits [R, V] are the step's: ``num_logits`` rows a chunk.
    """
    rows = [
        (c, ahead) for c in plan.chunks for ahead in range(c.num_draws - c.num_logits, c.num_draws)
    ]
    draws = [(chunk, ahead) for chunk, ahead in rows if ahead >= 0]
    if len(draws) < len(rows):
        logits = logits[torch.tensor([ahead >= 0 for _, ahead in rows])]
    token_ids: list[int] = _likeliest(logits).tolist()
    drawn: dict[int, tuple[SamplingParams, int]] = {}
    for row, (chunk, ahead) in enumerate(draws):
        sequence, index = chunk.sequence, len(chunk.sequence.output_ids) + ahead
        sampling = sequence.request.sampling
        if _adjusts(sequence, index):
            adjusted = _adjusted(logits[row].cpu(), sequence, chunk.draft[:ahead])
            token_ids[row] = _choose(adjusted, sequence, index)
        elif not sampling.is_greedy:
            drawn[row] = sampling, index
    for row, token_id in zip(drawn, _sample(logits, drawn), strict=True):
        token_ids[row] = token_id
    return token_ids


def draw_apart(logits: Tensor, plan: Plan) -> list[list[int] | BaseException]:
    """The tokens of each chunk, or why there are none: a row that fails does so alone."""
    try:
        drawn = iter(draw(logits, plan))
        return [list(itertools.islice(drawn, chunk.num_draws)) for chunk in plan.chunks]
    except BaseException as error:
        if must_pass(error):
            raise
    outcomes: list[list[int] | BaseException] = []
    end = 0
    for chunk in plan.chunks:
        first, end = end, end + chunk.num_logits
        try:
            outcomes.append(draw(logits[first:end], Plan((chunk,), ())))
        except BaseException as error:
            if must_pass(error):
                raise
            outcomes.append(error)
    return outcomes


def draw_row(logits: Tensor, sequence: Sequence, guesses: tuple[int, ...] = ()) -> int:
    """The next token of a sequence from logits [V], as if the guesses before it were right."""
    index = len(sequence.output_ids) + len(guesses)
    logits = logits.cpu()
    if _adjusts(sequence, index):
        logits = _adjusted(logits, sequence, guesses)
    return _choose(logits, sequence, index)


def _sample(logits: Tensor, drawn: Mapping[int, tuple[SamplingParams, int]]) -> list[int]:
    """Tokens of some rows of logits [R, V], each by its parameters and index."""
    if logits.device.type == "cpu" or not drawn:
        return [sample_row(logits[row], *how) for row, how in drawn.items()]
    params, indices = zip(*drawn.values(), strict=True)
    return sample_rows(logits[list(drawn)], params, indices)


def _adjusts(sequence: Sequence, index: int) -> bool:
    request = sequence.request
    is_constrained = sequence.constraint is not None
    return is_constrained or index < request.min_new_tokens or request.sampling.adjusts_logits


def _adjusted(logits: Tensor, sequence: Sequence, guesses: tuple[int, ...]) -> Tensor:
    """Logits [V] after bias, penalties, bans and grammar."""
    output_ids, request = sequence.output_ids, sequence.request
    if sequence.penalties is None:
        sequence.penalties = Penalties(request.sampling, request.prompt_ids, len(logits))
    banned_ids = sequence.banned_ids(len(output_ids) + len(guesses))
    logits = sequence.penalties.adjusted(logits, output_ids, guesses, banned_ids)
    if sequence.constraint is not None:
        sequence.constraint.restrict(logits)
    return logits


def _choose(logits: Tensor, sequence: Sequence, index: int) -> int:
    """A token from adjusted logits [V], which a grammar may change."""
    draw = functools.partial(sample_row, params=sequence.request.sampling, index=index)
    return draw(logits) if sequence.constraint is None else sequence.constraint.choose(logits, draw)


def score_rows(logits: Tensor, token_ids: Rows[int], num_top: int) -> list[TokenScore]:
    """Log-probabilities of a token a row of logits [R, V], and of each row's likeliest."""
    logprobs = logits.float().log_softmax(-1)
    chosen = logprobs.gather(-1, torch.tensor(token_ids, device=logits.device)[:, None])
    top = logprobs.topk(min(num_top, logits.shape[-1]))
    return [
        TokenScore(token_id, logprob, tuple(zip(ids, values, strict=True)))
        for token_id, (logprob,), ids, values in zip(
            token_ids, chosen.tolist(), top.indices.tolist(), top.values.tolist(), strict=True
        )
    ]


def sample_row(logits: Tensor, params: SamplingParams, index: int) -> int:
    """Choose a token from logits [V] in any floating dtype.

    ``index`` is the token's in its output; with the seed it decides the draw. Rows are drawn one by
    one: a row fits the processor's cache, a batch does not.
    """
    if params.is_greedy:
        return int(logits.argmax())
    with np.errstate(all="ignore"):  # rows that are no numbers are found elsewhere
        values = logits.float().cpu().numpy() / np.float32(params.temperature)
        ids: Places | None = None  # of the values; all of them so far
        for keep in _filters(params, len(values)):
            kept = keep(values)
            ids, values = kept if ids is None else ids[kept], values[kept]
        if not len(values):  # nothing was a number: any token that the model knows
            return 0
        place = _invert(values, counter_uniform(params.seed, index))
        return place if ids is None else int(ids[place])


def _likeliest(logits: Tensor) -> Tensor:
    """Index of each row's largest logit, the first of equals; int64 [R]."""
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        return torch.from_numpy(logits.numpy().argmax(-1))  # 13 times as fast as torch's here
    return logits.argmax(-1)


def _filters(params: SamplingParams, vocab_size: int) -> list[Callable[[Floats], Places]]:
    """What says which tokens stay, in order: top-k, then top-p, then min-p."""
    filters: list[Callable[[Floats], Places]] = []
    if 0 < params.top_k < vocab_size:
        filters.append(functools.partial(_top, count=params.top_k))
    if params.top_p < 1.0:
        filters.append(functools.partial(_nucleus, top_p=params.top_p))
    if params.min_p > 0.0:
        filters.append(functools.partial(_near_the_likeliest, min_p=params.min_p))
    return filters


def _top(values: Floats, count: int) -> Places:
    """Places of the largest values, ascending; all that equal the last one stay."""
    columns = len(values) // BLOCK
    candidates = np.arange(len(values))
    if count <= columns:
        # As many columns reach the count-th largest of their peaks, so as many values do.
        peaks = values[: columns * BLOCK].reshape(BLOCK, columns).max(0)
        candidates = np.flatnonzero(values >= np.partition(peaks, -count)[-count])
    if len(candidates) < count:  # NaN among the peaks
        return candidates
    few = values[candidates]
    kept: Places = candidates[few >= np.partition(few, -count)[-count]]
    return kept


def _nucleus(values: Floats, top_p: float) -> Places:
    """Places, ascending, of the smallest set of likeliest tokens whose probability is top-p."""
    weights = _weights(values)
    total = float(weights.sum(dtype=np.float64))
    # All tokens below an equal share of what may be dropped could be dropped together.
    likely = np.flatnonzero(weights >= 0.5 * (1.0 - top_p) * total / len(values))
    if not len(likely):
        return likely
    few = values[likely]
    ordered = np.sort(few)[::-1]
    cumulative = _weights(ordered).cumsum(dtype=np.float64)
    count = 1 + int(np.searchsorted(cumulative[:-1], top_p * total))
    edge = ordered[count - 1]
    is_kept, at_edge = few > edge, np.flatnonzero(few == edge)
    is_kept[at_edge[: count - np.count_nonzero(is_kept)]] = True  # of equals the first ones
    kept: Places = likely[is_kept]
    return kept


def _near_the_likeliest(values: Floats, min_p: float) -> Places:
    """Places of what has this share of the likeliest token's probability."""
    return np.flatnonzero(values >= values.max() + np.float32(math.log(min_p)))


def _weights(values: Floats) -> Floats:
    """Probabilities before they are divided by their sum; in full where it costs nothing."""
    if len(values) <= EXACT_TOKENS:
        values = values.astype(np.float64)
    weights: Floats = np.exp(values - values.max())
    return weights


def _invert(values: Floats, uniform: float) -> int:
    """Place at which the cumulative distribution passes a uniform number.

    Many tokens are summed up in blocks first: one in some millions of draws falls to the neighbour
    of its token by definition, the same one whatever shares the batch.
    """
    weights = _weights(values)
    if len(weights) <= EXACT_TOKENS:
        cumulative = weights.cumsum()
        return _first_beyond(cumulative, uniform * cumulative[-1])
    sums = np.add.reduceat(weights, np.arange(0, len(weights), BLOCK))
    cumulative = sums.cumsum(dtype=np.float64)
    threshold = uniform * cumulative[-1]
    block = _first_beyond(cumulative, threshold)
    before = cumulative[block - 1] if block else 0.0
    within = weights[block * BLOCK : (block + 1) * BLOCK].cumsum(dtype=np.float64)
    return block * BLOCK + _first_beyond(within, threshold - before)


def _first_beyond(cumulative: Floats, threshold: float) -> int:
    """First place beyond a threshold, which is below the end but for rounding: it has weight."""
    threshold = min(threshold, np.nextafter(cumulative[-1], 0.0))
    return min(int(cumulative.searchsorted(threshold, side="right")), len(cumulative) - 1)
