"""Runs the decoder over one step's batch with the cache of one model."""

import torch
from torch import Tensor

from lm.decoder import Decoder
from service.engine.attention import SlotAttention
from service.engine.batch import build_batch
from service.engine.cache import SlotCache
from service.engine.scheduler import Plan


class Runner:
    """A decoder and its cache; one plan in, the logits of its yielding chunks out."""

    def __init__(self, decoder: Decoder, cache: SlotCache) -> None:
        self._decoder = decoder.eval()
        self._device = decoder.lm_head.weight.device
        self.cache = cache

    @torch.inference_mode()
    def run(self, plan: Plan) -> Tensor:
        """Compute a plan.

        Returns:
            Logits [R, V] in the dtype of the weights, one row a chunk that yields a token, in
            the plan's order.

        """
        batch = build_batch(plan, self._device)
        attend = SlotAttention(self.cache, batch)
        hidden = self._decoder.hidden(batch.token_ids, batch.positions, attend)
        return self._decoder.head(hidden[0, batch.yielding_rows])
