"""How fast this machine multiplies matrices: what a run's speed is compared with.

Measured once when a run begins, for some milliseconds, in the dtype that it trains in: no table
knows every chip, and a machine that is shared or throttled shows less than its maker states.
"""

import statistics
import time

import torch

from trainer.step.precision import Precision

GPU_SIDE = 4096
CPU_SIDE = 768
REPEATS = 5
PATIENCE_S = 0.3


def measured_peak(device: torch.device, precision: Precision, side: int | None = None) -> float:
    """FLOPs a second of a product of two square matrices; ``side`` is their size.

    The first product is not counted: a GPU's libraries begin with it.
    """
    side = side or (GPU_SIDE if device.type == "cuda" else CPU_SIDE)
    dtype = getattr(torch, precision)
    a, b = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
        if sum(seconds[1:]) > PATIENCE_S:  # a processor without units for this dtype
            break
    return float(2 * side**3 / statistics.median(seconds[1:]))
