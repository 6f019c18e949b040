"""How well the model predicts text that it never trains on.

Nats a token depend on the tokenizer; bits per byte do not: nats summed, bytes summed, one
division. Special tokens stand for no bytes.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lm.model.decoder import Decoder
from trainer.step.loss import IGNORED, batch_loss
from trainer.step.precision import Precision, autocast


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One measurement on held-out text."""

    loss: float
    """Nats a token."""
    bits_per_byte: float
    tokens: int
    """Tokens scored."""


def evaluate(
    decoder: Decoder,
    batches: Iterable[tuple[Tensor, Tensor]],
    token_bytes: Tensor,
    *,
    precision: Precision,
    poll: Callable[[], None],
) -> Evaluation:
    """Score held-out batches in the precision of training; leaves the decoder in eval mode.

    Args:
        decoder: the model.
        batches: inputs and targets, int64 [B, T], at least one token in all.
        token_bytes: int64 [V], the bytes of text that each token id stands for.
        precision: dtype of matrix products.
        poll: called before each batch; may raise to stop.

    """
    decoder.eval()
    device = decoder.lm_head.weight.device
    nats = torch.zeros((), dtype=torch.float64, device=device)
    num_tokens, num_bytes = 0, 0
    for inputs, targets in batches:
        poll()
        with torch.inference_mode(), autocast(precision, device):
            nats += batch_loss(decoder, inputs.to(device), targets.to(device))  # read at the end
        scored = targets[targets != IGNORED]
        num_tokens += scored.numel()
        num_bytes += int(token_bytes[scored].sum())
    assert num_bytes > 0, "no validation text"
    total = float(nats)
    return Evaluation(total / num_tokens, bits_per_byte(total, num_bytes), num_tokens)


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """Summed nats over summed bytes, in bits."""
    return nats / math.log(2) / num_bytes
