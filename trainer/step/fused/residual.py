"""Keeps the residual stream of training in the dtype of autocast: half the memory to move.

Under autocast the embedding's float32 output makes every sum of the blocks float32. Rounding each
sum to half precision instead is a choice of the recipe: steps are faster on a GPU, where norms and
sums wait for memory, and the sum of many layers loses bits. Evaluation and serving keep float32.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lm.model.decoder import Decoder


def halve_residual(decoder: Decoder) -> None:
    """Make a decoder's blocks add to a stream in the dtype of autocast where gradients are wanted.

    The rotation's tables are made before, and stay float32.
    """
    decoder.embedding_dropout.register_forward_hook(_to_autocast_dtype)
    decoder.model.norm.register_forward_pre_hook(_to_float32)


def _to_autocast_dtype(module: nn.Module, arguments: Any, out: Tensor) -> Tensor:
    del module, arguments
    kind = out.device.type
    if not (torch.is_grad_enabled() and torch.is_autocast_enabled(kind)):
        return out
    return out.to(torch.get_autocast_dtype(kind))


def _to_float32(module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
    del module
    return (arguments[0].float(),) if arguments[0].dtype.itemsize == 2 else arguments
