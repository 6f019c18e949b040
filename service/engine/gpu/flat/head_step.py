"""Logits of the rows that yield tokens, after a step of flat rows.

Shapes: N rows of the step, R rows that yield, C hidden width, V vocabulary.
"""

import torch
from torch import Tensor

from lm.model.config import ModelConfig
from service.engine.gpu.flat.rowwise import gather_rows
from service.engine.gpu.tensors import DecoderWeights


class HeadStep:
    """Two kernels: gather with the finite flags, product with the head in float32 out."""

    def __init__(
        self,
        config: ModelConfig,
        weights: DecoderWeights,
        hidden: Tensor,
        row_indices: Tensor,
        logits: Tensor,
        is_finite: Tensor,
    ) -> None:
        """Make the workspace.

        Args:
            config: of the plain Llama shape.
            weights: of that shape; only the head is read.
            hidden: [N, C], normalised, in the dtype of the weights.
            row_indices: int32 [R]: rows that yield, -1 for none, whose logits are zeros.
            logits: float32 [R, V]: receives the logits.
            is_finite: bool or int8 [R]: receives whether the row's hidden state is finite.

        """
        assert logits.dtype == torch.float32, "samplers read float32"
        self._head = weights.head
        self._hidden = hidden
        self._row_indices = row_indices
        self._logits = logits
        self._is_finite = is_finite
        self._gathered = hidden.new_zeros(len(row_indices), config.hidden_size)

    def compute(self) -> None:
        """Launch the step; no wait for the device, and on a GPU no allocation."""
        gather_rows(self._hidden, self._row_indices, self._gathered, self._is_finite)
        if self._gathered.is_cuda and self._gathered.dtype != torch.float32:
            torch.mm(self._gathered, self._head.T, out_dtype=torch.float32, out=self._logits)
        else:  # PyTorch has products with a wider output on CUDA alone
            torch.mm(self._gathered.float(), self._head.float().T, out=self._logits)
