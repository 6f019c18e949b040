"""Runs the decoder over one step's batch with the cache of one model."""

import dataclasses
import itertools

import torch
from torch import Tensor

from lm.decoder import Decoder
from service.engine.attention import SlotAttention
from service.engine.batch import build_batch
from service.engine.cache import SlotCache
from service.engine.scheduler import Plan


@dataclasses.dataclass(frozen=True)
class StepOutput:
    """What one plan gave."""

    logits: Tensor
    """[R, V] in the dtype of the weights: one row a chunk that yields a token, in plan order."""
    is_finite: tuple[bool, ...]
    """Of each chunk of the plan, whether all of its hidden states are finite."""


class Runner:
    """A decoder and its cache; one plan in, the logits of its yielding chunks out."""

    def __init__(self, decoder: Decoder, cache: SlotCache) -> None:
        self._decoder = decoder.eval()
        self._device = decoder.lm_head.weight.device
        self.cache = cache

    @torch.inference_mode()
    def run(self, plan: Plan) -> StepOutput:
        """Compute a plan."""
        batch = build_batch(plan, self._device)
        attend = SlotAttention(self.cache, batch)
        hidden = self._decoder.hidden(batch.token_ids, batch.positions, attend)
        logits = self._decoder.head(hidden[0, batch.yielding_rows])
        return StepOutput(logits, _finite_chunks(hidden[0], plan))


def _finite_chunks(hidden: Tensor, plan: Plan) -> tuple[bool, ...]:
    """Of each chunk, whether its rows of hidden [N, C] are finite."""
    rows: list[bool] = hidden.isfinite().all(-1).tolist()
    ends = itertools.accumulate(chunk.num_tokens for chunk in plan.chunks)
    return tuple(
        all(rows[end - chunk.num_tokens : end])
        for chunk, end in zip(plan.chunks, ends, strict=True)
    )
