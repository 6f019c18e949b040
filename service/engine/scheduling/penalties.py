"""Bias and penalties of one sequence, kept up to date as it grows.

The definition is ``lm.sampling.adjusted_logits``, which reads the whole text for each token.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lm.sampling import SamplingParams, adjusted_logits


class Penalties:
    """What a sequence's tokens make less likely, over a vocabulary of V."""

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], vocab_size: int) -> None:
        self._params = params
        self._num_counted = 0
        self._counts: Tensor | None = None
        """int64 [V]: how often each token is in the output."""
        self._seen: Tensor | None = None
        """Bool [V]: whether a token is in prompt or output."""
        if params.frequency_penalty or params.presence_penalty:
            self._counts = torch.zeros(vocab_size, dtype=torch.int64)
        if params.repetition_penalty != 1.0:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool)
            self._seen[torch.tensor(prompt_ids, dtype=torch.int64)] = True

    def adjusted(
        self,
        logits: Tensor,
        output_ids: Sequence[int],
        guesses: Sequence[int] = (),
        banned_ids: Sequence[int] = (),
    ) -> Tensor:
        """A float32 copy of logits [V], as if the guesses had been written behind the output."""
        params = self._params
        new = output_ids[self._num_counted :]
        counts, seen = self._counts, self._seen
        if new:
            _count(counts, seen, new)
            self._num_counted = len(output_ids)
        if guesses:
            counts = None if counts is None else counts.clone()
            seen = None if seen is None else seen.clone()
            _count(counts, seen, guesses)
        biased = SamplingParams(logit_bias=params.logit_bias)
        logits = adjusted_logits(logits, biased)
        if seen is not None:
            penalty = params.repetition_penalty
            penalised = torch.where(logits < 0, logits * penalty, logits / penalty)
            logits = torch.where(seen, penalised, logits)
        if counts is not None:
            logits -= params.frequency_penalty * counts + params.presence_penalty * (counts > 0)
        if banned_ids:
            logits[torch.tensor(banned_ids, dtype=torch.int64)] = -torch.inf
        return logits


def _count(counts: Tensor | None, seen: Tensor | None, token_ids: Sequence[int]) -> None:
    ids = torch.tensor(token_ids, dtype=torch.int64)
    if counts is not None:
        counts.index_add_(0, ids, torch.ones_like(ids))
    if seen is not None:
        seen[ids] = True
