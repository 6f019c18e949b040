"""A slot cache with one token more a slot, where rows that decode nothing may write."""

import torch

from lm.config import ModelConfig
from service.engine.cache import SlotCache


class GraphCache(SlotCache):
    """A recorded step always writes a token to each of its slots; ``scratch`` is never read."""

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
            config, num_slots=num_slots, max_tokens=max_tokens + 1, dtype=dtype, device=device
        )

    @property
    def max_tokens(self) -> int:
        """Tokens that one slot holds."""
        return self.key.shape[3] - 1

    @property
    def scratch(self) -> int:
        """Position of the token that is never read."""
        return self.max_tokens
