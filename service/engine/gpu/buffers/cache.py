"""A slot cache with one slot that no sequence gets: models are tried out in it beside those."""

import torch

from lm.model.config import ModelConfig
from service.engine.gpu.tensors import KeyValues
from service.engine.pytorch.cache import SlotCache


class GpuCache(SlotCache):
    """Keys and values of all models of one shape, each [L, S + 1, Hkv, T, D]."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_slots: int,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(
            config, num_slots=num_slots + 1, max_tokens=max_tokens, dtype=dtype, device=device
        )

    @property
    def num_slots(self) -> int:
        """Sequences that fit at once; also the number of the slot that none of them gets."""
        return self.key.shape[1] - 1

    @property
    def tensors(self) -> KeyValues:
        """What the steps read and write."""
        return KeyValues(key=self.key, value=self.value)
