"""What a step tells the host: drawn tokens, and whether each row's numbers are finite."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.engine.gpu.inputs import DEPTH

BYTES_A_ROW = 5
"""A token of four bytes and a flag of one."""


class Outputs:
    """Written by the kernels of a step of R rows; one copy takes both to the host."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._rows = rows
        self._device = torch.zeros(BYTES_A_ROW * rows, dtype=torch.uint8, device=device)
        self.tokens: Tensor = self._device[: 4 * rows].view(torch.int32)
        """int32 [R] on the device."""
        self.is_finite: Tensor = self._device[4 * rows :].view(torch.bool)
        """bool [R] on the device."""
        is_cuda = device.type == "cuda"
        self._host = [
            torch.zeros(BYTES_A_ROW * rows, dtype=torch.uint8, pin_memory=is_cuda)
            for _ in range(DEPTH)
        ]
        self._turn = 0

    def send(self) -> None:
        """Copy to the host, behind what the device has been told to do before."""
        self._turn = (self._turn + 1) % DEPTH
        self._host[self._turn].copy_(self._device, non_blocking=True)

    def latest(self) -> "Drawn":
        """The copy that was sent last: to be read once the device has come to it."""
        data = self._host[self._turn].numpy()
        split = 4 * self._rows
        return Drawn(data[:split].view(np.int32), data[split:].view(np.bool_))


class Drawn:
    """Host arrays that are valid once the device is done."""

    def __init__(self, token_ids: npt.NDArray[np.int32], is_finite: npt.NDArray[np.bool_]) -> None:
        self.token_ids = token_ids
        """int32 [R]."""
        self.is_finite = is_finite
        """bool [R]."""
