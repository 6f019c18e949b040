"""What the rows of a step ask of the sampler, as tensors whose addresses never change."""

import dataclasses

import torch
from torch import Tensor


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

    @classmethod
    def empty(cls, num_rows: int, device: torch.device) -> "SamplingRows":
        """Zeros, but that all rows are dead."""

        def zeros(dtype: torch.dtype) -> Tensor:
            return torch.zeros(num_rows, dtype=dtype, device=device)

        return cls(
            uniforms=zeros(torch.float64),
            top_p=zeros(torch.float64),
            slots=zeros(torch.int32).fill_(-1),
            temperatures=zeros(torch.float32),
            top_k=zeros(torch.int32),
            log_min_p=zeros(torch.float32),
            adjust=zeros(torch.int32),
        )
