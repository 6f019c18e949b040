import pytest
import torch
from torch import Tensor, nn

from trainer.speed.muon import COEFFICIENTS, EPS, STEPS, BatchedMuon, orthogonalized


def matrices(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(matrix: Tensor) -> Tensor:
    """Newton-Schulz of one matrix through its singular values, float64 [R, S]."""
    a, b, c = COEFFICIENTS
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm().clamp(min=EPS)
    for _ in range(STEPS):
        values = a * values + b * values**3 + c * values**5
    return left @ values.diag() @ right


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (5, 12)])
def test_newton_schulz_of_a_stack_is_that_of_each_matrix(shape: tuple[int, int]) -> None:
    stack = matrices(3, *shape)
    exact = torch.stack([reference(matrix) for matrix in stack])
    torch.testing.assert_close(orthogonalized(stack, torch.float64), exact, atol=1e-9, rtol=0)
    softened = orthogonalized(stack).double()
    assert (softened - exact).norm() <= 0.03 * exact.norm()


def test_singular_values_come_near_one() -> None:
    values = torch.linalg.svdvals(orthogonalized(matrices(2, 16, 24), torch.float64))
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3


@pytest.mark.parametrize("shape", [(8, 8), (16, 4)])
def test_steps_are_those_of_torch_s_own(shape: tuple[int, int]) -> None:
    starts = matrices(3, *shape).float()
    ours, theirs = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    batched = BatchedMuon([{"params": ours}], momentum=0.9)
    batched.param_groups[0].update(lr=0.02, weight_decay=0.1)
    plain = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.9)
    for seed in range(4):
        gradients = matrices(3, *shape, seed=seed).float()
        for parameters in (ours, theirs):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
        batched.step()
        plain.step()
    for mine, other, start in zip(ours, theirs, starts, strict=True):
        assert (mine - other).norm() <= 0.02 * (other - start).norm()
