"""What a step tells the host: drawn tokens, and whether each row's numbers are finite."""

import numpy as np
import torch
from torch import Tensor

BYTES_A_ROW = 5
"""A token of four bytes and a flag of one."""
NUM_READY = 2
"""Host buffers that are made beforehand: for a step in flight, and for the one behind it."""


class Drawn:
    """One step's outputs in host memory, valid once the device is done."""

    def __init__(self, rows: int, *, pin_memory: bool) -> None:
        self.buffer = torch.zeros(BYTES_A_ROW * rows, dtype=torch.uint8, pin_memory=pin_memory)
        data = self.buffer.numpy()
        self._token_ids = data[: 4 * rows].view(np.int32)
        self._is_finite = data[4 * rows :].view(np.bool_)
        self.home: list[Drawn] | None = None
        """Where it waits for its next use; ``None`` while it does."""

    def read(self, count: int) -> tuple[list[int], list[bool]]:
        """Token ids and flags of the first rows; called once, since others write here then."""
        token_ids = self._token_ids[:count].tolist()
        is_finite = self._is_finite[:count].tolist()
        home, self.home = self.home, None
        assert home is not None, "outputs are read once"
        home.append(self)
        return token_ids, is_finite


class Outputs:
    """Written by the kernels of a step of R rows; one copy takes both to the host.

    A step may run several times before the first run is read, so each run gets a host buffer that
    is nobody else's until it has been read.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self._rows = rows
        self._device = torch.zeros(BYTES_A_ROW * rows, dtype=torch.uint8, device=device)
        self.tokens: Tensor = self._device[: 4 * rows].view(torch.int32)
        """int32 [R] on the device."""
        self.is_finite: Tensor = self._device[4 * rows :].view(torch.bool)
        """bool [R] on the device."""
        self._is_cuda = device.type == "cuda"
        self._free = [self._make() for _ in range(NUM_READY)]
        self._latest: Drawn | None = None

    def _make(self) -> Drawn:
        return Drawn(self._rows, pin_memory=self._is_cuda)

    def send(self) -> None:
        """Copy to the host, behind what the device has been told to do before."""
        drawn = self._free.pop() if self._free else self._make()
        drawn.home = self._free
        drawn.buffer.copy_(self._device, non_blocking=True)
        self._latest = drawn

    def latest(self) -> Drawn:
        """The copy that was sent last: to be read once the device has come to it."""
        assert self._latest is not None, "nothing was sent"
        return self._latest
