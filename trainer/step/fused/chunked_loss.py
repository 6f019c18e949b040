"""The head's cross-entropy for GPUs: few large chunks, and nothing that the host waits for.

Each chunk's logits become their own gradient in the forward pass, as on a CPU
(``trainer.step.fused.head_loss``), but one pure function computes a chunk, so that
``torch.compile`` sees all of it, and no value is read back. How many chunks there are follows from
the shapes and the device's memory alone.

Shapes: N rows, C hidden width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOST_LOGITS_BYTES = 4 << 30
"""Float32 logits of one chunk: 16,384 rows of 49,152 ids are one chunk."""
SHARE_OF_MEMORY = 16
"""A chunk's logits are at most this part of a GPU's memory."""

ChunkLoss = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]]
"""``loss_and_gradients``, or what ``torch.compile`` makes of it."""


def loss_and_gradients(
    rows: Tensor, head: Tensor, targets: Tensor, ignored: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Summed -log softmax(rows · headᵀ)[target] in nats, float32 [], and both its gradients.

    Args:
        rows: [N, C], in the dtype that products run in.
        head: [V, C] in the same dtype.
        targets: int64 [N]; rows of ``ignored`` are not scored.
        ignored: the target that is not scored.

    Returns:
        The loss, its gradient by ``rows`` [N, C] and by ``head`` [V, C] in their dtype.

    """
    scores = (rows @ head.T).float()
    scored = (targets != ignored)[:, None]
    wanted = torch.where(scored[:, 0], targets, 0)[:, None]
    peak = scores.amax(1, keepdim=True)
    exponentials = (scores - peak).exp()
    total = exponentials.sum(1, keepdim=True)
    losses = torch.where(scored, peak + total.log() - scores.gather(1, wanted), 0.0)
    is_wanted = torch.arange(len(head), device=rows.device)[None, :] == wanted
    # In float32: near the end of learning p - 1 is smaller than half precision can tell.
    of_scores = (exponentials / total - is_wanted.float()) * scored
    of_logits = of_scores.to(rows.dtype)
    return losses.sum(), of_logits @ head, of_logits.T @ rows


def num_chunks(rows: int, vocab_size: int, memory_bytes: int | None) -> int:
    """Chunks that keep their float32 logits within bounds; ``None`` is memory without a bound.

    All of one size where that takes less than twice as many, for each size is compiled.
    """
    bound = MOST_LOGITS_BYTES
    if memory_bytes is not None:
        bound = min(bound, memory_bytes // SHARE_OF_MEMORY)
    fewest = min(rows, -(-rows * vocab_size * 4 // max(1, bound)))
    return next((n for n in range(fewest, 2 * fewest) if rows % n == 0), fewest)


def chunked_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignored: int,
    *,
    chunk_loss: ChunkLoss = loss_and_gradients,
    chunks: int | None = None,
) -> Tensor:
    """Sum of -log softmax(hidden · weightᵀ)[target], in nats, float32 [].

    Args:
        hidden: [N, C].
        weight: the head's [V, C].
        targets: int64 [N]; rows of ``ignored`` are not scored.
        ignored: the target that is not scored.
        chunk_loss: computes one chunk.
        chunks: how many there are; ``None``: as few as memory allows.

    Products run in the dtype of autocast where it is on, else in that of ``hidden``.

    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    if chunks is None:
        chunks = num_chunks(len(hidden), len(weight), memory_of(hidden.device))
    with torch.autocast(kind, enabled=False):
        if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
            loss: Tensor = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
                hidden, weight, targets, ignored, dtype, chunks, chunk_loss
            )
            return loss
        return _loss_alone(hidden.to(dtype), weight.to(dtype), targets, ignored, chunks)


def memory_of(device: torch.device) -> int | None:
    """Bytes of a GPU's memory; ``None`` for a CPU."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def _loss_alone(rows: Tensor, head: Tensor, targets: Tensor, ignored: int, chunks: int) -> Tensor:
    """The loss where no gradient is wanted."""
    losses = [
        torch.nn.functional.cross_entropy(
            (part @ head.T).float(), of_part, ignore_index=ignored, reduction="sum"
        )
        for part, of_part in zip(rows.chunk(chunks), targets.chunk(chunks), strict=True)
    ]
    return torch.stack(losses).sum()


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        ignored: int,
        dtype: torch.dtype,
        chunks: int,
        chunk_loss: ChunkLoss,
    ) -> Tensor:
        rows, head = hidden.to(dtype), weight.to(dtype)
        losses, of_rows, of_head = [], [], None
        for part, of_part in zip(rows.chunk(chunks), targets.chunk(chunks), strict=True):
            loss, of_these, product = chunk_loss(part, head, of_part, ignored)
            losses.append(loss)
            of_rows.append(of_these)
            # One chunk's product is as exact as its dtype; sums of them need float32.
            of_head = product.to(weight.dtype) if of_head is None else of_head.add_(product)
        # Not saved but given away: a gradient that nobody else holds is not copied.
        ctx.gradients = [torch.cat(of_rows).to(hidden.dtype), of_head]
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        torch._foreach_mul_(gradients, gradient)
        return (*gradients, None, None, None, None, None)
