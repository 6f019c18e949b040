"""A runner that replays recorded decoding steps, and computes the others as they come."""

from collections.abc import Callable

import torch

from lm.model.decoder import Decoder
from service.engine.graphs.buckets import Bucket, all_buckets, bucket_of
from service.engine.graphs.cache import GraphCache
from service.engine.graphs.decode import StaticDecode
from service.engine.pytorch.runner import Runner, StepOutput
from service.engine.scheduling.plan import Plan

Compute = Callable[[], None]
Record = Callable[[Compute], Compute]
"""Runs a function in order to record it; what it gives does the same again."""


class GraphRunner(Runner):
    """Every shape is recorded when the runner is made: no request waits for that."""

    def __init__(self, decoder: Decoder, cache: GraphCache, record: Record) -> None:
        super().__init__(decoder, cache)
        self._steps: dict[Bucket, tuple[StaticDecode, Compute]] = {}
        with torch.inference_mode():
            for bucket in all_buckets(cache.num_slots, cache.max_tokens):
                step = StaticDecode(decoder, cache, bucket)
                self._steps[bucket] = step, record(step.compute)

    @torch.inference_mode()
    def run(self, plan: Plan) -> StepOutput:
        """Replay a plan of one token a sequence; compute any other."""
        if any(chunk.num_tokens > 1 or chunk.num_logits != 1 for chunk in plan.chunks):
            return super().run(plan)
        step, replay = self._steps[
            bucket_of(
                max(chunk.slot for chunk in plan.chunks) + 1,
                max(chunk.end for chunk in plan.chunks),
                self.cache.num_slots,
                self.cache.max_tokens,
            )
        ]
        step.fill(plan)
        replay()
        return StepOutput(*step.results(plan))
