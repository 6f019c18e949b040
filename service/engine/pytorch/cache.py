"""Keys and values of running sequences: one contiguous slot a sequence.

Contiguous slots suit ``scaled_dot_product_attention``, which would have to gather pages first.
On a CPU the tensors are only address space until tokens are written, so generous slots cost
what is used, not what is reserved.
"""

import math
import mmap

import torch
from torch import Tensor

from lm.model.config import ModelConfig


class SlotCache:
    """Key and value tensors, each [layers, slots, Hkv, max_tokens, D]."""

    spare_tokens = 0
    """Of each slot, beside those that a sequence may fill."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_slots: int,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (
            config.num_hidden_layers,
            num_slots,
            config.num_key_value_heads,
            max_tokens + self.spare_tokens,
            config.head_dim,
        )
        self.key = zeros(shape, dtype, device)
        self.value = zeros(shape, dtype, device)

    @property
    def num_slots(self) -> int:
        """Sequences that fit at once."""
        return self.key.shape[1]

    @property
    def max_tokens(self) -> int:
        """Tokens that one slot holds."""
        return self.key.shape[3] - self.spare_tokens

    @property
    def capacity(self) -> int:
        """Tokens that all slots hold."""
        return self.num_slots * self.max_tokens

    def write(
        self, layer: int, slots: Tensor, positions: Tensor, key: Tensor, value: Tensor
    ) -> None:
        """Store one token a row: key and value [rows, Hkv, D] at (slots[i], positions[i])."""
        self.key[layer][slots, :, positions] = key
        self.value[layer][slots, :, positions] = value

    def copy(self, source_slot: int, target_slot: int, num_tokens: int) -> None:
        """Give one slot the first tokens of another."""
        for tensor in (self.key, self.value):
            tensor[:, target_slot, :, :num_tokens] = tensor[:, source_slot, :, :num_tokens]

    def clear(self, slot: int, start: int, end: int) -> None:
        """Wipe tokens [start, end) whose numbers must not reach another one, masked or not."""
        self.key[:, slot, :, start:end] = 0
        self.value[:, slot, :, start:end] = 0

    def read(self, layer: int, slots: slice | Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The first tokens of some slots: key and value [slots, Hkv, length, D]."""
        return self.key[layer, slots, :, :length], self.value[layer, slots, :, :length]


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU as fresh pages of the kernel, which take no memory until written.

    A masked token has the weight 0, but 0 times a NaN that some memory held is NaN.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
