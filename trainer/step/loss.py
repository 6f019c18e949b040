"""Cross-entropy that adds up: a float32 sum over tokens, divided once by all that count.

Micro-batches of one optimizer step contribute sums, and the sum is divided by the step's total
of tokens; dividing each micro-batch by its own count first, or by the number of micro-batches,
gives a different gradient whenever the counts differ (huggingface/transformers#34191).

Shapes: B batch, T tokens, C hidden width, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.model.decoder import Decoder
from trainer.step.fused.attention import training_attention
from trainer.step.fused.chunked_loss import chunked_cross_entropy
from trainer.step.fused.head_loss import head_cross_entropy

BatchLoss = Callable[[Decoder, Tensor, Tensor], Tensor]
"""``batch_loss``, or its compiled form (``trainer.step.compiled``)."""
IGNORED = -100
"""Target that is not scored."""
PASS_TOKENS = 4096
"""What a CPU takes through the decoder at once: more is not faster there, and needs more memory."""


def passes(inputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """A micro-batch, int64 [B, T] each, in groups of rows whose losses add up to its own."""
    rows = len(inputs) if inputs.is_cuda else max(1, PASS_TOKENS // inputs.shape[1])
    return zip(torch.split(inputs, rows), torch.split(targets, rows), strict=True)


def batch_loss(decoder: Decoder, inputs: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy [] of whole rows, in nats; inputs and targets are int64 [B, T]."""
    positions = torch.arange(inputs.shape[1], device=inputs.device)
    attend = training_attention(inputs, decoder.config.dropout if decoder.training else 0.0)
    hidden = decoder.hidden(inputs, positions, attend)
    weight = decoder.lm_head.weight
    cross_entropy = chunked_cross_entropy if inputs.is_cuda else head_cross_entropy
    total: Tensor = cross_entropy(hidden.flatten(0, 1), weight, targets.flatten(), IGNORED)
    return total


def summed_cross_entropy(
    hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor
) -> Tensor:
    """Sum of -log p(target) over all scored tokens, in nats, float32 []; all logits at once.

    The plain form: ``trainer.step.fused.head_loss`` computes the same, faster and in less memory.

    Args:
        hidden: final hidden states [B, T, C].
        head: maps hidden states [..., C] to logits [..., V].
        targets: int64 [B, T]; ``IGNORED`` is not scored.

    """
    logits = head(hidden).float()
    return F.cross_entropy(
        logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def count_scored(targets: Iterable[Tensor]) -> int:
    """Tokens that count in the loss, over all micro-batches of a step; targets on the CPU."""
    return sum(int(np.count_nonzero(target.numpy() != IGNORED)) for target in targets)
