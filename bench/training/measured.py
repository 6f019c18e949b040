"""What is trained in ``bench.training.gpu``, and what one side of it took."""

import dataclasses
import statistics
from typing import Any

import torch

NOMINAL_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 FLOPs a second as the maker states them, by a part of the card's name."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """A batch and the model that it trains; SmolLM2-135M's."""

    rows: int
    length: int
    layers: int = 30
    width: int = 576
    inner: int = 1536
    heads: int = 9
    kv_heads: int = 3
    vocab: int = 49152

    @property
    def parameters(self) -> int:
        """Weights, the tied head once."""
        kv_width = self.width // self.heads * self.kv_heads
        attention = 2 * self.width * (self.width + kv_width)
        block = attention + 3 * self.width * self.inner + 2 * self.width
        return self.layers * block + self.vocab * self.width + self.width

    @property
    def flops_per_token(self) -> float:
        """Forward and backward: 6 a weight, and causal attention, which is half of all pairs."""
        return 6 * self.parameters + 12 * self.layers * self.width * self.length / 2


class Measured:
    """Seconds of one side's steps and the memory that they took."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        """Of each step, the first one included."""
        self.extra: dict[str, Any] = {}
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def row(self, side: str, shape: Shape, warm_up: int, peak: float) -> dict[str, Any]:
        """The side's figures; ``peak`` is what a product of matrices reached, FLOPs a second."""
        tokens, steady = shape.rows * shape.length, sorted(self.seconds[warm_up:])
        median = statistics.median(steady)
        low, _, high = statistics.quantiles(steady) if len(steady) > 1 else (median,) * 3
        flops = tokens / median * shape.flops_per_token
        row = {
            "side": side,
            "shape": f"{shape.rows} x {shape.length}",
            "steps": len(steady),
            "tokens_per_s": round(tokens / median),
            "quartiles": [round(tokens / high), round(tokens / low)],
            "ms": round(median * 1e3, 2),
            "first_step_s": round(self.seconds[0], 2),
            "tflops": round(flops / 1e12, 1),
            "share_of_measured_peak": round(flops / peak, 3),
        }
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
            nominal = next((v for key, v in NOMINAL_FLOPS.items() if key in name), None)
            row["mfu"] = None if nominal is None else round(flops / nominal, 3)
            row["peak_gb"] = round(torch.cuda.max_memory_allocated(self.device) / 1e9, 2)
        return row | self.extra
