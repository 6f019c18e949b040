"""What the rows of a step ask of the sampler, as tensors whose addresses never change."""

import dataclasses

import torch
from torch import Tensor

FIELDS = {
    "uniforms": torch.float64,
    "top_p": torch.float64,
    "slots": torch.int32,
    "temperatures": torch.float32,
    "top_k": torch.int32,
    "log_min_p": torch.float32,
    "adjust": torch.int32,
}
"""Wide ones first: each field begins at a multiple of its width."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SamplingRows:
    """One number of each kind for each of R rows; all on one device."""

    uniforms: Tensor
    """float64 [R]: ``uniforms.counter_uniforms`` of the rows' seeds and indices."""
    top_p: Tensor
    """float64 [R]: 1 keeps all."""
    slots: Tensor
    """int32 [R]: slot of the sequence, or -1 for a row from which nothing is drawn."""
    temperatures: Tensor
    """float32 [R]: below ``GREEDY_TEMPERATURE`` the likeliest token is taken."""
    top_k: Tensor
    """int32 [R]: 0 keeps all, and so does what the vocabulary does not exceed."""
    log_min_p: Tensor
    """float32 [R]: natural logarithm of min-p; -inf keeps all."""
    adjust: Tensor
    """int32 [R]: bits of ``adjustments.Adjust``; 0 leaves the logits as they are."""

    @staticmethod
    def num_bytes(num_rows: int) -> int:
        """Size of the buffer that ``over`` wants."""
        return num_rows * sum(dtype.itemsize for dtype in FIELDS.values())

    @classmethod
    def over(cls, buffer: Tensor, num_rows: int) -> "SamplingRows":
        """Fields inside a uint8 buffer: one copy of a pinned buffer fills all of a device's.

        The buffer begins at a multiple of 8 bytes and has ``num_bytes``.
        """
        if buffer.dtype != torch.uint8 or buffer.numel() != cls.num_bytes(num_rows):
            raise ValueError(f"{num_rows} rows need {cls.num_bytes(num_rows)} bytes of uint8")
        fields, start = {}, 0
        for name, dtype in FIELDS.items():
            end = start + num_rows * dtype.itemsize
            fields[name] = buffer[start:end].view(dtype)
            start = end
        return cls(**fields)

    @classmethod
    def empty(cls, num_rows: int, device: torch.device) -> "SamplingRows":
        """Fields in a buffer of their own; all rows are dead."""
        rows = cls.over(
            torch.zeros(cls.num_bytes(num_rows), dtype=torch.uint8, device=device), num_rows
        )
        rows.slots.fill_(-1)
        return rows
