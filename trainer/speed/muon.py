"""Muon for GPUs: all matrices of one shape in one batch, and a step that the device may skip.

The update is that of ``torch.optim.Muon`` (https://kellerjordan.github.io/posts/muon), which goes
over the matrices one by one; here as in ``trainer.muon`` Newton-Schulz runs on a stack of them.
Like fused AdamW it takes ``grad_scale``, which gradients are divided by, and ``found_inf``, which
leaves weights and momentum alone where it is 1: the host need not know of either.

Shapes: N matrices of one shape, R rows, S columns.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trainer.muon import orthogonalize


class BatchedMuon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, batched by shape."""

    grad_scale: Tensor | None = None
    """Float32 [], what gradients are too large by."""
    found_inf: Tensor | None = None
    """Float32 [], 1 for a step to be skipped."""

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        momentum: float,
        dtype: torch.dtype,
    ) -> None:
        """``dtype`` is that of Newton-Schulz's products."""
        super().__init__(params, {"lr": 0.0, "weight_decay": 0.0, "momentum": momentum})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters that have gradients."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """One step of the parameters of one shape."""
        buffers = [self._momentum_buffer(parameter) for parameter in parameters]
        gradients = torch.stack([p.grad for p in parameters if p.grad is not None])
        if self.grad_scale is not None:
            gradients.div_(self.grad_scale)
        before = torch.stack(buffers)
        momentum = before.lerp(gradients, 1 - group["momentum"])
        update = orthogonalize(gradients.lerp(momentum, group["momentum"]), self._dtype)
        rows, columns = parameters[0].shape
        step = update.float() * (-group["lr"] * math.sqrt(max(1.0, rows / columns)))
        decay = torch.full((), 1 - group["lr"] * group["weight_decay"], device=step.device)
        if self.found_inf is not None:
            is_skipped = self.found_inf > 0
            momentum = torch.where(is_skipped, before, momentum)
            step = torch.where(is_skipped, 0.0, step)
            decay = torch.where(is_skipped, 1.0, decay)
        torch._foreach_copy_(buffers, list(momentum.unbind()))
        torch._foreach_mul_(parameters, decay)
        torch._foreach_add_(parameters, list(step.to(parameters[0].dtype).unbind()))

    def _momentum_buffer(self, parameter: Tensor) -> Tensor:
        """The parameter's, as ``torch.optim.Muon`` names it."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer
