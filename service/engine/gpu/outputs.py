"""What a step tells the host: drawn tokens, and whether each row's numbers are finite."""

import numpy as np
import numpy.typing as npt
import torch

from service.engine.gpu.inputs import DEPTH


class Outputs:
    """int32 [2, R] on the device, and pinned copies of the last steps' on the host."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.device = torch.zeros(2, rows, dtype=torch.int32, device=device)
        """Row 0: token ids; row 1: 1 where finite."""
        is_cuda = device.type == "cuda"
        self._host = [
            torch.zeros(2, rows, dtype=torch.int32, pin_memory=is_cuda) for _ in range(DEPTH)
        ]
        self._turn = 0

    def send(self) -> None:
        """Copy to the host, behind what the device has been told to do before."""
        self._turn = (self._turn + 1) % DEPTH
        self._host[self._turn].copy_(self.device, non_blocking=True)

    def latest(self) -> npt.NDArray[np.int32]:
        """The copy that was sent last: to be read once the device has come to it."""
        array: npt.NDArray[np.int32] = self._host[self._turn].numpy()
        return array
