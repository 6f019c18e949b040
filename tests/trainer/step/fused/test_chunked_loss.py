import math

import pytest
import torch
from torch import Tensor

from trainer.step.fused.chunked_loss import chunked_cross_entropy, num_chunks
from trainer.step.loss import IGNORED, summed_cross_entropy

ROWS, WIDTH, VOCAB = 37, 16, 300


def case() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator)
    weight = torch.randn(VOCAB, WIDTH, generator=generator)
    targets = torch.randint(VOCAB, (ROWS,), generator=generator)
    targets[[3, ROWS - 1]] = IGNORED
    return hidden, weight, targets


def both(chunks: int, factor: float = 1.0) -> list[list[Tensor]]:
    """Loss and gradients of hidden states and head, of the plain form and of ours."""
    results = []
    for ours in (False, True):
        hidden, weight, targets = case()
        rows, head = hidden.requires_grad_(), weight.requires_grad_()
        if ours:
            loss = chunked_cross_entropy(rows, head, targets, IGNORED, chunks=chunks)
        else:
            loss = summed_cross_entropy(rows, lambda x, head=head: x @ head.T, targets)
        (loss * factor).backward()
        results.append([loss.detach(), rows.grad, head.grad])
    return results


@pytest.mark.parametrize("chunks", [1, 4, 37])
@pytest.mark.parametrize("factor", [1.0, 1 / 35])
def test_values_and_gradients_are_those_of_the_plain_loss(chunks: int, factor: float) -> None:
    for plain, ours in zip(*both(chunks, factor), strict=True):
        assert (ours - plain).norm() <= 1e-6 * plain.norm()


def test_under_autocast_it_is_as_exact_as_the_plain_loss() -> None:
    exact, _ = both(3)
    with torch.autocast("cpu", torch.bfloat16):
        plain, ours = both(3)
    for truth, other, mine in zip(exact, plain, ours, strict=True):
        assert mine.dtype == truth.dtype
        assert (mine - truth).norm() <= 1.2 * (other - truth).norm() + 1e-6 * truth.norm()


def test_without_gradients_the_loss_is_the_same() -> None:
    hidden, weight, targets = case()
    plain = summed_cross_entropy(hidden, lambda x: x @ weight.T, targets)
    ours = chunked_cross_entropy(hidden, weight, targets, IGNORED, chunks=5)
    torch.testing.assert_close(ours, plain)


def test_a_hidden_state_that_is_not_finite_shows_in_the_loss() -> None:
    hidden, weight, targets = case()
    hidden[5, 0] = math.nan
    loss = chunked_cross_entropy(hidden.requires_grad_(), weight, targets, IGNORED)
    assert loss.isnan()


def test_logits_stay_within_bounds_in_as_few_chunks_of_one_size_as_that_takes() -> None:
    assert num_chunks(8 * 2048, 49152, 80 << 30) == 1
    assert num_chunks(32 * 2048, 49152, 80 << 30) == 4
    assert num_chunks(8 * 2048, 49152, 16 << 30) == 4
    assert num_chunks(3 * 1000, 49152, 2 << 30) == 5
    assert num_chunks(7, 300, None) == 1
    assert num_chunks(3, 1 << 40, 1 << 30) == 3
