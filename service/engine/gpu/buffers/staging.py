"""Pinned host memory that weights pass through: from pageable memory a copy holds the host up."""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

STAGING_BYTES = 1 << 22
"""A piece of a checkpoint (``lm.safetensors_file.PIECE_BYTES``); longer ones go in several
copies."""
NUM_BUFFERS = 2
"""While one is copied to the device the next piece is converted into the other."""


class Event(Protocol):
    """What marks a place in a stream: ``torch.cuda.Event``."""

    def record(self) -> None:
        """Mark what has been asked of the current stream so far."""

    def synchronize(self) -> None:
        """Wait until the device has come there; at once if nothing was recorded."""


class StagedCopy:
    """Copies rows of weights to a device, one piece being converted while another travels.

    ``new_event`` makes the events of the buffers, and ``pin_memory`` says whether the buffers are
    pinned; tests on a CPU give others.
    """

    def __init__(
        self, new_event: Callable[[], Event] = torch.cuda.Event, *, pin_memory: bool = True
    ) -> None:
        self._buffers = [
            torch.empty(STAGING_BYTES, dtype=torch.uint8, pin_memory=pin_memory)
            for _ in range(NUM_BUFFERS)
        ]
        self._events = [new_event() for _ in range(NUM_BUFFERS)]
        self._next = 0

    def copy(self, target: Tensor, rows: Tensor) -> None:
        """Send rows [n, ...], in any dtype, to a tensor of their shape on the device.

        The rows are read before this returns. What was sent has arrived once the current stream has
        been synchronized.
        """
        assert target.shape == rows.shape
        row_bytes = math.prod(target.shape[1:]) * target.element_size()
        if row_bytes > STAGING_BYTES or not target.is_contiguous():
            target.copy_(rows)
            return
        at_once = STAGING_BYTES // max(row_bytes, 1)
        parts = zip(torch.split(target, at_once), torch.split(rows, at_once), strict=True)
        for part, values in parts:
            self._send(part, values)

    def _send(self, target: Tensor, rows: Tensor) -> None:
        buffer, event = self._buffers[self._next], self._events[self._next]
        self._next = (self._next + 1) % NUM_BUFFERS
        event.synchronize()  # the copy before may still read the buffer
        host = buffer[: target.nbytes].view(target.dtype).view(target.shape)
        host.copy_(rows)
        target.copy_(host, non_blocking=True)
        event.record()
