"""Muon orthogonalises in the dtype it is given, many matrices at once as each alone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from toy_run import toy_recipe, train_toy

from trainer.recipe.sections import OptimizerConfig
from trainer.step import muon, precision
from trainer.step.muon import Muon, orthogonalize
from trainer.step.optimizer import Optimizer, Rates

SHAPES = [(24, 40), (40, 24), (32, 32)]


def gradients(*shape: int, seed: int = 0) -> Tensor:
    return 1e-3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_singular_values(matrix: Tensor) -> Tensor:
    """The definition in float64: the quintic, five times over, of each singular value."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm()
    a, b, c = muon.COEFFICIENTS
    for _ in range(muon.ITERATIONS):
        values = a * values + b * values**3 + c * values**5
    return left @ values.diag() @ right


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "distance"),
    [
        (torch.float64, 1e-8),
        (torch.float32, 1e-4),
        (torch.float16, 0.02),
        (torch.bfloat16, 0.1),
    ],
)
def test_it_is_its_definition(shape: tuple[int, int], dtype: torch.dtype, distance: float) -> None:
    matrices = gradients(3, *shape)
    out = orthogonalize(matrices.double() if dtype == torch.float64 else matrices, dtype)
    assert (out.dtype, out.shape) == (dtype, matrices.shape)
    for mine, matrix in zip(out, matrices, strict=True):
        expected = by_singular_values(matrix)
        assert float((mine.double() - expected).norm() / expected.norm()) < distance


def test_singular_values_come_near_one_and_nothing_stays_nothing() -> None:
    values = torch.linalg.svdvals(orthogonalize(gradients(2, 24, 40), torch.float32))
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.5
    assert not orthogonalize(torch.zeros(1, 4, 4), torch.float32).any()


class Dtypes(TorchDispatchMode):
    """Collects the dtypes that matrix products run in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        del types
        out = function(*args, **(kwargs or {}))
        if "mm" in str(function):
            self.seen.add(out.dtype)
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_products_run_in_the_dtype_asked_for(dtype: torch.dtype) -> None:
    parameters = [nn.Parameter(gradients(*shape)) for shape in SHAPES]
    optimizer = moved(parameters, 0, dtype)
    for parameter in parameters:
        parameter.grad = gradients(*parameter.shape)
    with Dtypes() as products:
        optimizer.step()
    assert products.seen == {dtype}


def moved(parameters: list[nn.Parameter], steps: int, dtype: torch.dtype) -> Muon:
    """After some steps over gradients that depend on the parameter and the step alone."""
    optimizer = Muon([{"params": parameters}], lr=0.02, momentum=0.95, dtype=dtype)
    optimizer.param_groups[0]["weight_decay"] = 0.1
    for step in range(steps):
        for number, parameter in enumerate(parameters):
            parameter.grad = gradients(*parameter.shape, seed=100 * step + number)
        optimizer.step()
    return optimizer


def test_in_bfloat16_it_is_torch_s_own() -> None:
    ours, theirs = (
        [nn.Parameter(gradients(*shape, seed=n)) for n, shape in enumerate([*SHAPES, *SHAPES])]
        for _ in range(2)
    )
    moved(ours, 3, torch.bfloat16)
    reference = torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.1)
    for step in range(3):
        for number, parameter in enumerate(theirs):
            parameter.grad = gradients(*parameter.shape, seed=100 * step + number)
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        distance = (mine - other).detach().norm() / other.detach().norm()
        assert float(distance) < 0.05


def test_moments_that_torch_s_own_saved_go_on() -> None:
    """As those of a run that began before this module was there."""
    old = torch.optim.Muon([nn.Parameter(torch.ones(24, 40))])
    (parameter,) = old.param_groups[0]["params"]
    parameter.grad = gradients(24, 40)
    old.step()
    name, config = "model.layers.0.w", OptimizerConfig(name="muon", lr=0.1, grad_clip=None)
    named = [(name, parameter), ("model.norm.weight", nn.Parameter(torch.ones(3)))]
    optimizer = Optimizer(named, config, torch.float32)
    optimizer.load_state_tensors(
        {f"{name}/{key}": tensor for key, tensor in old.state[parameter].items()}
    )
    expected = old.state[parameter]["momentum_buffer"].lerp(parameter.grad, 0.05)
    assert optimizer.step(Rates(0.1, 0.1, 0.0)) is not None
    moment = optimizer.state_tensors()[f"{name}/momentum_buffer"]
    torch.testing.assert_close(moment, expected)


@pytest.mark.parametrize(("speedup", "dtype"), [(0.1, torch.float32), (3.0, torch.bfloat16)])
def test_a_run_takes_the_faster_dtype_and_keeps_it(
    speedup: float, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()

    def recorded(matrices: Tensor, dtype: torch.dtype) -> Tensor:
        seen.add(dtype)
        return orthogonalize(matrices, dtype)

    monkeypatch.setattr(muon, "orthogonalize", recorded)
    monkeypatch.setattr(precision, "bfloat16_speedup", lambda *_, **__: speedup)
    train_toy(tmp_path, toy_recipe("precision=auto"), last_step=2)
    monkeypatch.setattr(precision, "bfloat16_speedup", lambda *_, **__: 1 / speedup)
    train_toy(tmp_path, toy_recipe("precision=auto"), last_step=4)
    assert seen == {dtype}


def test_how_many_go_together_changes_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = ([nn.Parameter(gradients(24, 40, seed=n)) for n in range(5)] for _ in range(2))
    moved(whole, 2, torch.float32)
    monkeypatch.setattr(muon, "MOST_NUMBERS", 2 * 24 * 40)
    assert [len(batch) for batch in muon._batches(parts)] == [2, 2, 1]
    moved(parts, 2, torch.float32)
    for mine, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(mine, other, rtol=0.0, atol=1e-6)


def test_a_parameter_without_a_gradient_stays_where_it_is() -> None:
    parameters = [nn.Parameter(gradients(24, 40)) for _ in range(2)]
    before = parameters[1].detach().clone()
    optimizer = Muon([{"params": parameters}], lr=0.02, momentum=0.95, dtype=torch.float32)
    parameters[0].grad = gradients(24, 40)
    optimizer.step()
    assert torch.equal(parameters[1], before)
    assert not torch.equal(parameters[0], before)
    assert parameters[1] not in optimizer.state


@pytest.mark.parametrize("shape", SHAPES)
def test_a_divisor_and_a_skip_that_nobody_reads_change_what_they_should(
    shape: tuple[int, int],
) -> None:
    plain, scaled = ([nn.Parameter(gradients(*shape, seed=n)) for n in range(3)] for _ in range(2))
    optimizers = [moved(parameters, 1, torch.float32) for parameters in (plain, scaled)]
    scaling = optimizers[1]
    scaling.grad_scale, scaling.found_inf = torch.tensor(4.0), torch.tensor(1.0)
    before = [parameter.detach().clone() for parameter in scaled]
    moments = [scaling.state[parameter]["momentum_buffer"].clone() for parameter in scaled]
    for parameter in scaled:
        parameter.grad = torch.full(shape, float("nan"))
    scaling.step()
    assert all(map(torch.equal, scaled, before))
    assert all(
        torch.equal(scaling.state[p]["momentum_buffer"], m)
        for p, m in zip(scaled, moments, strict=True)
    )
    scaling.found_inf = torch.tensor(0.0)
    for number, (mine, other) in enumerate(zip(plain, scaled, strict=True)):
        mine.grad = gradients(*shape, seed=50 + number)
        other.grad = 4.0 * mine.grad
    for optimizer in optimizers:
        optimizer.step()
    assert all(map(torch.equal, plain, scaled))
    assert not any(map(torch.equal, scaled, before))
