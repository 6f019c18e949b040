"""Runs the decoder over one step's batch with the cache of one model.

``StepRunner`` is what an engine needs of whoever does that; ``Runner`` does it in PyTorch.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from lm.model.config import ModelConfig
from lm.model.decoder import Decoder
from service.engine.pytorch.attention import SlotAttention
from service.engine.pytorch.batch import build_batch
from service.engine.pytorch.cache import SlotCache
from service.engine.scheduling.plan import Plan


@dataclasses.dataclass(frozen=True)
class StepOutput:
    """What one plan gave."""

    logits: Tensor
    """[R, V] in a floating dtype: ``num_logits`` rows a chunk, in the order of the plan."""
    is_finite: tuple[bool, ...]
    """Of each chunk of the plan, whether all of its hidden states are finite."""


class StepCache(Protocol):
    """What an engine needs of a cache; see ``service.engine.pytorch.cache``."""

    @property
    def num_slots(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    def copy(self, source_slot: int, target_slot: int, num_tokens: int) -> None: ...
    def clear(self, slot: int, start: int, end: int) -> None: ...


class StepRunner(Protocol):
    """One plan in, the logits that its chunks yield out."""

    @property
    def config(self) -> ModelConfig:
        """Shape of the decoder."""
        ...

    @property
    def cache(self) -> StepCache:
        """Keys and values of the running sequences."""
        ...

    def run(self, plan: Plan) -> StepOutput:
        """Compute a plan."""
        ...

    def score(self, token_ids: Sequence[int]) -> Tensor:
        """Logits [T, V] after each token of a text, while nothing runs."""
        ...


def use_threads(count: int) -> None:
    """Let PyTorch compute with so many threads where the calling thread asks it to."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


class Runner:
    """A decoder and its cache."""

    def __init__(self, decoder: Decoder, cache: SlotCache, threads: int | None = None) -> None:
        """``threads`` of a step; by default as many as PyTorch takes here now."""
        self._threads = threads or torch.get_num_threads()
        self._decoder = decoder.eval()
        self._device = decoder.lm_head.weight.device
        self.cache = cache

    @property
    def config(self) -> ModelConfig:
        """Shape of the decoder."""
        return self._decoder.config

    @torch.inference_mode()
    def run(self, plan: Plan) -> StepOutput:
        """Compute a plan."""
        use_threads(self._threads)  # a model of another kind may have had the turn before
        batch = build_batch(plan, self._device)
        attend = SlotAttention(self.cache, batch)
        hidden = self._decoder.hidden(batch.token_ids, batch.positions, attend)
        logits = self._decoder.head(hidden[0, batch.yielding_rows])
        return StepOutput(logits, _finite_chunks(hidden[0], plan))

    @torch.inference_mode()
    def score(self, token_ids: Sequence[int]) -> Tensor:
        """Logits [T, V] after each token of a text."""
        logits: Tensor = self._decoder(torch.tensor([token_ids], device=self._device))[0]
        return logits


def _finite_chunks(hidden: Tensor, plan: Plan) -> tuple[bool, ...]:
    """Of each chunk, whether its rows of hidden [N, C] are finite."""
    rows: list[bool] = hidden.isfinite().all(-1).tolist()
    ends = itertools.accumulate(chunk.num_tokens for chunk in plan.chunks)
    return tuple(
        all(rows[end - chunk.num_tokens : end])
        for chunk, end in zip(plan.chunks, ends, strict=True)
    )
