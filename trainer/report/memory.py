"""How much memory this process holds, for the reports."""

import psutil
import torch


def resident_bytes() -> int:
    """Physical memory of the process."""
    return int(psutil.Process().memory_info().rss)


def gpu_bytes(device: torch.device) -> int | None:
    """Memory that PyTorch holds on a GPU; ``None`` on a CPU."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else None
