"""Where and in which dtype to compute: chosen by what is there and what a measurement says."""

import statistics
import time

import torch


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU; raises ``ValueError`` if unavailable."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}; use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} asked for, but PyTorch sees no CUDA device")
    return device


def bfloat16_speedup(device: torch.device, *, rows: int, width: int, inner: int) -> float:
    """How many times faster a bfloat16 matrix product runs here than a float32 one.

    Measures [rows, width] x [width, inner] for some milliseconds: chips without native bfloat16
    are slower with it (pytorch#86270), and nothing but a clock tells.
    """
    return _matmul_seconds(device, torch.float32, (rows, width, inner)) / _matmul_seconds(
        device, torch.bfloat16, (rows, width, inner)
    )


def _matmul_seconds(
    device: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int], repeats: int = 9
) -> float:
    rows, width, inner = sizes
    x = torch.ones(rows, width, device=device, dtype=dtype)
    weight = torch.ones(inner, width, device=device, dtype=dtype)
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        durations.append(time.perf_counter() - start)
    return statistics.median(durations[2:])
