import pytest
import torch
from torch import Tensor, nn

from trainer.muon import Muon
from trainer.speed.muon import BatchedMuon


def matrices(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(8, 8), (16, 4)])
def test_steps_are_those_of_the_plain_one(shape: tuple[int, int]) -> None:
    """``trainer.muon`` is tested against PyTorch's own."""
    starts = matrices(3, *shape).float()
    ours, theirs = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    batched = BatchedMuon([{"params": ours}], momentum=0.9, dtype=torch.float32)
    batched.param_groups[0].update(lr=0.02, weight_decay=0.1)
    plain = Muon([{"params": theirs}], lr=0.02, momentum=0.9, dtype=torch.float32)
    plain.param_groups[0].update(weight_decay=0.1)
    for seed in range(4):
        gradients = matrices(3, *shape, seed=seed).float()
        for parameters in (ours, theirs):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
        batched.step()
        plain.step()
    for mine, other, start in zip(ours, theirs, starts, strict=True):
        assert (mine - other).norm() <= 1e-5 * (other - start).norm()
