"""How kernels follow each other: programmatic dependent launch where the card has it.

A kernel allows the next one to start at once, loads what no kernel of the step writes (weights),
and then waits until all kernels before it have ended. Every program waits, also one that has
nothing to do: the wait of the next kernel holds only for the kernel before it.
https://docs.nvidia.com/cuda/cuda-c-programming-guide/#programmatic-dependent-launch-and-synchronization
"""

import dataclasses
from typing import Self

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from service.engine.gpu.availability import has_dependent_launch


@dataclasses.dataclass(frozen=True)
class Launch:
    """How a step launches its kernels."""

    dependent: bool
    """With programmatic dependent launch."""

    @classmethod
    def on(cls, device: torch.device) -> Self:
        """The best way that a device has."""
        return cls(has_dependent_launch(device))

    def options(self, warps: int, stages: int = 2) -> dict[str, int | bool]:
        """Keyword arguments of every launch."""
        options: dict[str, int | bool] = {"num_warps": warps, "num_stages": stages}
        options["PDL"] = self.dependent
        if self.dependent:
            options["launch_pdl"] = True
        return options


@triton.jit
def allow_next(PDL: tl.constexpr):
    """Let the next kernel start as soon as there is room for it."""
    if PDL:
        gdc_launch_dependents()


@triton.jit
def wait_for_inputs(PDL: tl.constexpr):
    """Wait until everything that earlier kernels write is there to be read."""
    if PDL:
        gdc_wait()
