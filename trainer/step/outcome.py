"""What an optimizer step came to: known on the device at once, on the host when it is looked at.

A loop that reads loss and norm in every step makes the device wait for the host and the host for
the device. On a GPU the three numbers are copied to pinned memory behind the step instead, and
read after the next step is on its way.
"""

import dataclasses

import torch
from torch import Tensor

from trainer.step.optimizer import Rates


@dataclasses.dataclass(frozen=True)
class Values:
    """One step's figures, on the host."""

    loss: float
    """Nats a token."""
    gradient_norm: float
    """Before clipping."""
    skipped: bool
    """Whether loss or gradient was not finite, and weights and moments were left alone."""


class Reading:
    """Three numbers on their way from the device to the host."""

    def __init__(self, loss: Tensor, norm: Tensor, skipped: Tensor) -> None:
        """Start the copy of three scalars, behind what computes them."""
        values = torch.stack((loss.double(), norm.double(), skipped.double()))
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda:
            source, values = values, torch.empty(3, dtype=torch.float64, pin_memory=True)
            values.copy_(source, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()
        self._values = values

    def wait(self) -> Values:
        """The numbers, once the device has computed them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        loss, norm, skipped = self._values.tolist()
        return Values(loss, norm, bool(skipped))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launched:
    """An optimizer step that was handed to the device."""

    micro_steps: int
    tokens: int
    rates: Rates
    reading: Reading
