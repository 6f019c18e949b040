import math

import pytest
import torch
from torch import Tensor

from trainer.step.fused import head_loss
from trainer.step.fused.head_loss import head_cross_entropy
from trainer.step.loss import IGNORED, summed_cross_entropy

ROWS, WIDTH, VOCAB = 37, 16, 300


def case(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator, dtype=dtype)
    weight = torch.randn(VOCAB, WIDTH, generator=generator, dtype=dtype)
    targets = torch.randint(VOCAB, (ROWS,), generator=generator)
    targets[[3, ROWS - 1]] = IGNORED
    return hidden, weight, targets


def both(
    hidden: Tensor, weight: Tensor, targets: Tensor, factor: float = 1.0
) -> list[list[Tensor]]:
    """Loss and gradients of hidden states and head, of the plain form and of ours."""
    results = []
    for ours in (False, True):
        rows, head = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if ours:
            loss = head_cross_entropy(rows, head, targets, IGNORED)
        else:
            loss = summed_cross_entropy(rows, lambda x, head=head: x @ head.T, targets)
        (loss * factor).backward()
        assert rows.grad is not None
        assert head.grad is not None
        results.append([loss.detach(), rows.grad, head.grad])
    return results


@pytest.mark.parametrize("chunk", [1, 5, 37, 1000])
@pytest.mark.parametrize("factor", [1.0, 1 / 35])
def test_values_and_gradients_are_those_of_the_plain_loss(
    chunk: int, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_loss, "CHUNK_ELEMENTS", chunk * VOCAB)
    monkeypatch.setattr(head_loss, "SOFTMAX_ELEMENTS", 4 * VOCAB)
    for plain, ours in zip(*both(*case(), factor), strict=True):
        assert (ours - plain).norm() <= 1e-6 * plain.norm()


def test_under_autocast_it_is_as_exact_as_the_plain_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_loss, "CHUNK_ELEMENTS", 8 * VOCAB)
    exact, _ = both(*case())
    with torch.autocast("cpu", torch.bfloat16):
        plain, ours = both(*case())
    for truth, other, mine in zip(exact, plain, ours, strict=True):
        assert mine.dtype == truth.dtype
        assert (mine - truth).norm() <= 1.2 * (other - truth).norm() + 1e-6 * truth.norm()


def test_a_learnt_target_keeps_its_small_gradient_in_half_precision() -> None:
    hidden, weight = torch.ones(1, 1), torch.tensor([[8.0], [0.0]])
    hidden.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = head_cross_entropy(hidden, weight, torch.tensor([0]), IGNORED)
    loss.backward()
    miss = 1 / (1 + math.exp(8.0))
    assert float(loss.detach()) == pytest.approx(math.log1p(math.exp(-8.0)), rel=0.01)
    assert float(hidden.grad) == pytest.approx(-8 * miss, rel=0.01)


def test_a_hopeless_target_has_a_finite_loss() -> None:
    hidden, weight = torch.ones(1, 1), torch.tensor([[500.0], [-500.0]], requires_grad=True)
    loss = head_cross_entropy(hidden, weight, torch.tensor([1]), IGNORED)
    assert float(loss.detach()) == 1000.0


def test_without_gradients_it_is_the_same_number_and_keeps_nothing() -> None:
    hidden, weight, targets = case()
    with torch.inference_mode():
        alone = head_cross_entropy(hidden, weight, targets, IGNORED)
    assert alone.grad_fn is None
    assert float(alone) == float(both(hidden, weight, targets)[1][0])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_shows_in_the_loss(value: float) -> None:
    hidden, weight, targets = case()
    hidden[5, 2] = value
    assert not math.isfinite(float(head_cross_entropy(hidden, weight, targets, IGNORED)))


def test_it_is_deterministic() -> None:
    first, second = (both(*case())[1] for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
