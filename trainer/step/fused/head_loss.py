"""Cross-entropy of a linear head whose logits never exist all at once, for CPUs.

The forward pass goes over the rows in chunks, turns each chunk's logits in place into their own
gradient and multiplies that at once with the head and with the hidden states; the backward pass
hands out what is ready. Softmax runs in float32 on a few rows at a time, which stay in the cache.
``trainer.step.loss.summed_cross_entropy`` is the plain form that this one is tested against; GPUs
have ``trainer.step.fused.chunked_loss``.

Shapes: N rows, C hidden width, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 3 << 24
"""Logits held at once: those of 1,024 rows for 49,152 ids, 100 MB in bfloat16."""
SOFTMAX_ELEMENTS = 1 << 18
"""Float32 probabilities held at once: a megabyte, what a core's own cache holds."""


def head_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, ignored: int) -> Tensor:
    """Sum of -log softmax(hidden · weightᵀ)[target], in nats, float32 [].

    Args:
        hidden: [N, C].
        weight: the head's [V, C].
        targets: int64 [N]; rows of ``ignored`` are not scored.
        ignored: the target that is not scored.

    Products run in the dtype of autocast where it is on, else in that of ``hidden``.

    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    with torch.autocast(kind, enabled=False):
        if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
            loss: Tensor = _HeadLoss.apply(hidden, weight, targets, ignored, dtype)  # type: ignore[no-untyped-call]
            return loss
        rows, head = hidden.to(dtype), weight.to(dtype)
        losses = [
            _to_gradient(part @ head.T, targets_of_part, ignored)
            for part, targets_of_part in _chunks(rows, targets, len(head))
        ]
        return torch.stack(losses).sum()


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, ignored: int, dtype: torch.dtype
    ) -> Tensor:
        rows, head = hidden.to(dtype), weight.to(dtype)
        losses, of_rows, of_head = [], [], None
        for part, targets_of_part in _chunks(rows, targets, len(head)):
            logits = part @ head.T
            losses.append(_to_gradient(logits, targets_of_part, ignored))
            of_rows.append(logits @ head)
            product = logits.T @ part
            # One chunk's product is as exact as its dtype; sums of them need float32.
            of_head = product.to(weight.dtype) if of_head is None else of_head.add_(product)
        # Not saved but given away: a gradient that nobody else holds is not copied.
        ctx.gradients = [torch.cat(of_rows).to(hidden.dtype), of_head]
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if (factor := float(gradient)) != 1.0:
            torch._foreach_mul_(gradients, factor)
        return (*gradients, None, None, None)


def _chunks(rows: Tensor, targets: Tensor, vocab_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    size = max(1, CHUNK_ELEMENTS // vocab_size)
    return zip(torch.split(rows, size), torch.split(targets, size), strict=True)


def _to_gradient(logits: Tensor, targets: Tensor, ignored: int) -> Tensor:
    """Overwrite logits [N, V] with the gradient of their summed loss, which is returned."""
    scored = targets != ignored
    wanted = torch.where(scored, targets, 0)[:, None]
    of_target = logits.gather(1, wanted)[:, 0].float()
    peak = logits.amax(1).float()
    share_of_peak = torch.empty_like(peak)
    hits = scored[:, None].float()
    rows = max(1, SOFTMAX_ELEMENTS // logits.shape[1])
    for first in range(0, logits.shape[0], rows):
        block = slice(first, first + rows)
        probabilities = torch.softmax(logits[block], 1, dtype=torch.float32)
        share_of_peak[block] = probabilities.amax(1)
        # In float32: near the end of learning p - 1 is smaller than half precision can tell.
        probabilities.scatter_add_(1, wanted[block], -hits[block])
        logits[block] = probabilities
    if not bool(scored.all()):
        logits.mul_(scored[:, None])
    # log p(target) = logit(target) - logsumexp, and the peak's own probability never underflows.
    losses = peak - share_of_peak.log() - of_target
    return torch.where(scored, losses, 0.0).sum()
