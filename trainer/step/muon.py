"""Muon: momentum whose direction is orthogonalised, for the matrices between embedding and head.

``torch.optim.Muon`` computes the same, matrix by matrix and always in bfloat16: on a processor
that emulates bfloat16 that takes 20 times as long as float32. Here the dtype is the run's
(``trainer.step.precision``), and matrices of one shape are orthogonalised together. As fused AdamW
does, it takes a divisor of the gradients and whether to skip a step as tensors that the host need
not read.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic a·s + b·s³ + c·s⁵ in a singular value: steep at zero, never exactly one."""
ITERATIONS = 5
MOST_NUMBERS = 1 << 24
"""Most numbers that are orthogonalised together: 64 MB in float32, a few times over."""
_NORM_EPS = 1e-7


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Matrices [N, R, C] with about the same singular vectors, and singular values near one.

    They come back in ``dtype``, in which all products run, after a division in their own: float16
    could not hold small gradients.
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = (x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=_NORM_EPS)).to(dtype)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if is_tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; wide and square matrices move by the same norm."""

    grad_scale: Tensor | None = None
    """Float32 [], what gradients are too large by."""
    found_inf: Tensor | None = None
    """Float32 [], above 0 for a step that leaves weights and momentum alone; ``None``: take it."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameters in _batches(p for p in group["params"] if p.grad is not None):
                self._move(parameters, group)

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Move some parameters of one shape."""
        gradients = torch.stack([p.grad for p in parameters if p.grad is not None])
        if self.grad_scale is not None:
            gradients.div_(self.grad_scale)
        moments = [self._moment(p) for p in parameters]
        before = torch.stack(moments)
        after = before.lerp(gradients, 1 - group["momentum"])
        ahead = gradients.lerp_(after, group["momentum"])
        directions = orthogonalize(ahead, self._dtype).to(parameters[0].dtype)
        decay = torch.full((), 1 - group["lr"] * group["weight_decay"], device=after.device)
        if self.found_inf is not None:
            is_skipped = self.found_inf > 0
            after = torch.where(is_skipped, before, after)
            directions = torch.where(is_skipped, 0.0, directions)
            decay = torch.where(is_skipped, 1.0, decay)
        rows, columns = parameters[0].shape
        torch._foreach_copy_(moments, after.unbind())
        torch._foreach_mul_(parameters, decay)
        torch._foreach_add_(
            parameters, directions.unbind(), alpha=-group["lr"] * math.sqrt(max(1, rows / columns))
        )

    def _moment(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        moment: Tensor = state["momentum_buffer"]
        return moment


def _batches(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters by shape, as many together as ``MOST_NUMBERS`` allows."""
    for _, same in itertools.groupby(sorted(parameters, key=_shape), _shape):
        members = list(same)
        size = max(1, MOST_NUMBERS // members[0].numel())
        yield from (members[i : i + size] for i in range(0, len(members), size))


def _shape(parameter: Tensor) -> tuple[int, ...]:
    return tuple(parameter.shape)
