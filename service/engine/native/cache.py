"""Keys and values of running sequences in the layout of the kernels (``cache.hpp``)."""

import math

import torch
from torch import Tensor

from lm.model.config import ModelConfig
from service.engine.pytorch.cache import zeros

PANEL = 32
"""Tokens of a slot come in panels of so many."""


class NativeCache:
    """Contiguous slots in bfloat16, as ``service.engine.pytorch.cache.SlotCache``.

    ``key`` is [layers, slots, Hkv, panels, D / 2, 32 tokens, 2], ``value`` is
    [layers, slots, Hkv, panels, 16, D, 2 tokens].
    """

    def __init__(self, config: ModelConfig, *, num_slots: int, max_tokens: int) -> None:
        panels, width = math.ceil(max_tokens / PANEL), config.head_dim
        shape = (config.num_hidden_layers, num_slots, config.num_key_value_heads, panels)
        cpu = torch.device("cpu")
        self.key = zeros((*shape, width // 2, PANEL, 2), torch.bfloat16, cpu)
        self.value = zeros((*shape, PANEL // 2, width, 2), torch.bfloat16, cpu)
        self.max_tokens = max_tokens

    @property
    def num_slots(self) -> int:
        """Sequences that fit at once."""
        return self.key.shape[1]

    @property
    def capacity(self) -> int:
        """Tokens that all slots hold."""
        return self.num_slots * self.max_tokens

    @property
    def padded_tokens(self) -> int:
        """Tokens that a slot has room for, whole panels."""
        return self.key.shape[3] * PANEL

    def clear(self, slot: int, start: int, end: int) -> None:
        """Wipe tokens [start, end) whose numbers must not reach another one, masked or not."""
        tokens = torch.arange(start, end)
        panel, place = tokens // PANEL, tokens % PANEL
        self.key[:, slot][:, :, panel, :, place] = 0
        self.value[:, slot][:, :, panel, place // 2, :, place % 2] = 0

    def copy(self, source_slot: int, target_slot: int, num_tokens: int) -> None:
        """Give one slot the first tokens of another; what follows them there is undefined."""
        panels = math.ceil(num_tokens / PANEL)
        for tensor in (self.key, self.value):
            tensor[:, target_slot, :, :panels] = tensor[:, source_slot, :, :panels]

    def tokens(self, slot: int, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Key and value [layers, Hkv, num_tokens, D] of a slot, in plain order."""
        layers, _, heads, _, half, _, _ = self.key.shape
        key = self.key[:, slot].transpose(3, 4).reshape(layers, heads, -1, 2 * half)
        value = self.value[:, slot].transpose(-1, -2).reshape(layers, heads, -1, 2 * half)
        return key[:, :, :num_tokens], value[:, :, :num_tokens]
