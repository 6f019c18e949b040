"""What a step reads that changes with every step: packed on the host, one copy to the device."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

DEPTH = 3
"""Host buffers: one that the device may be reading, one for the next step, one being filled.

A plan of many prompts runs the same step more often than that; filling waits then."""
_TORCH_DTYPES = {"f8": torch.float64, "f4": torch.float32, "i4": torch.int32}

Array = npt.NDArray[np.generic]


class Event(Protocol):
    """A place among what a device has been told to do: what PackedInputs needs of CUDA's."""

    def record(self) -> None:
        """Put it behind everything so far."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has come to it; at once if it was never recorded."""
        ...


@dataclasses.dataclass(frozen=True)
class Field:
    """An array of the inputs."""

    dtype: str
    """``f8``, ``f4`` or ``i4``."""
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size in memory."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class PackedInputs:
    """Named arrays at fixed addresses of the device, filled through pinned host memory."""

    def __init__(self, fields: Mapping[str, Field], device: torch.device) -> None:
        """Fields of eight bytes an element come first, so that all are aligned."""
        ordered = sorted(fields.items(), key=lambda item: -np.dtype(item[1].dtype).itemsize)
        num_bytes = sum(field.num_bytes for field in fields.values())
        is_cuda = device.type == "cuda"
        self._device = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
        self._host = [
            torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=is_cuda) for _ in range(DEPTH)
        ]
        self.tensors: dict[str, Tensor] = {}
        """By name, on the device."""
        self._arrays: list[dict[str, Array]] = [{} for _ in range(DEPTH)]
        start = 0
        for name, field in ordered:
            part = slice(start, start + field.num_bytes)
            dtype = _TORCH_DTYPES[field.dtype]
            self.tensors[name] = self._device[part].view(dtype).view(field.shape)
            for host, arrays in zip(self._host, self._arrays, strict=True):
                arrays[name] = host[part].numpy().view(field.dtype).reshape(field.shape)
            start = part.stop
        self._turn = 0
        self._copied: list[Event] = []
        """For each host buffer, what the device comes to once it has copied it; none on a CPU."""
        if is_cuda:
            self._copied = [torch.cuda.Event() for _ in range(DEPTH)]  # type: ignore[no-untyped-call]

    def begin(self) -> dict[str, Array]:
        """Arrays to fill for the next step; what is not filled is as it was ``DEPTH`` steps ago.

        Waits while the device has not copied what was filled ``DEPTH`` steps ago.
        """
        self._turn = (self._turn + 1) % DEPTH
        if self._copied:
            self._copied[self._turn].synchronize()
        return self._arrays[self._turn]

    def send(self) -> None:
        """Copy what was filled to the device, behind what it has been told to do before."""
        self._device.copy_(self._host[self._turn], non_blocking=True)
        if self._copied:
            self._copied[self._turn].record()
