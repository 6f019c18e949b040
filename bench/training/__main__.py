"""How fast training is: tokens a second beside Hugging Face's ``Trainer``, and of what could be.

Both sides train the same weights on the same batches at the same rates in bfloat16 autocast over
float32 weights (``bench.training.workload``), each in a process of its own. They take turns in
rounds after a warm-up; medians over all steps of all rounds, with quartiles. The share of the
peak counts 6 FLOPs a parameter and token and 12 · layers · width · context for whole attention
(``ModelConfig.flops_per_token``), over what a product of 2,048 x 2,048 x 2,048 reaches between the
rounds, in bfloat16 or, where that is faster, in float32. Prints a table and one JSON line.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.machine import machine
from bench.training.process import start
from bench.training.side import SIDES
from bench.training.workload import begin, comparable
from lm.model.device import bfloat16_speedup
from trainer.recipe.schema import Recipe

SHAPES = {
    "tiny 8 x 256": ("tiny", (8, 256), 20),
    "smollm2-135m 4 x 256": ("smollm2-135m", (4, 256), 5),
    "smollm2-135m 1 x 2048": ("smollm2-135m", (1, 2048), 3),
    "smollm2-135m 8 x 2048": ("smollm2-135m", (8, 2048), 10),
}
"""Recipe, rows and tokens of a batch, steps of a round."""
WARM_UP = 2
DEFAULT_SIDES = ("ours", "huggingface", "huggingface-allocator")
PEAK_SIZE = 2048
GPU_IS_LARGER = 4
"""Side of the product that keeps a GPU busy, in that of a CPU."""


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES)[:-1])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=DEFAULT_SIDES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--quick", action="store_true", help="one step of models of one layer")
    options = parser.parse_args()
    rows = [
        row
        for shape in options.shapes
        for row in measure(
            shape, options.sides, options.rounds, options.device, quick=options.quick
        )
    ]
    print_table(rows)
    print(json.dumps({"benchmark": "training", **machine(), "rows": rows}))


def measure(
    shape: str, sides: list[str], rounds: int, device: str, *, quick: bool
) -> list[dict[str, Any]]:
    """One row a side; the sides take turns."""
    name, batch, steps = SHAPES[shape]
    recipe, lengths = comparable(name, batch=batch), [WARM_UP] + [steps] * rounds
    if quick:
        recipe, lengths = comparable(name, *_small(recipe), batch=(2, 16)), [1, 1]
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    losses: dict[str, list[float]] = {side: [] for side in sides}
    first_step: dict[str, float] = {}
    peaks: list[float] = []
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        begin(recipe, Path(place))
        processes = [
            stack.enter_context(start(side, recipe, Path(place), lengths, device)) for side in sides
        ]
        for number in range(len(lengths)):
            for process in processes:
                lines = process.round()
                losses[process.name] += [line["loss"] for line in lines]
                first_step.setdefault(process.name, round(lines[0]["seconds"], 2))
                if number:  # the first round is the warm-up
                    seconds[process.name] += [line["seconds"] for line in lines]
                print(time.strftime("%H:%M:%S"), shape, process.name, file=sys.stderr, flush=True)
            peaks.append(peak_flops(device))
    peak = statistics.median(peaks)
    return [
        row_of(shape, recipe, side, seconds, losses[side], peak)
        | {"first_step_s": first_step[side]}
        for side in sides
    ]


def row_of(
    shape: str,
    recipe: Recipe,
    side: str,
    seconds: dict[str, list[float]],
    losses: list[float],
    peak: float,
) -> dict[str, Any]:
    """One side's figures."""
    tokens = recipe.batch.micro_batch * recipe.batch.length
    rates = sorted(tokens / value for value in seconds[side])
    rate = tokens / statistics.median(seconds[side])
    flops = recipe.model.flops_per_token(recipe.batch.length)
    baseline = statistics.median(seconds[next(iter(seconds))])
    return {
        "shape": shape,
        "side": side,
        "steps": len(rates),
        "tokens_per_s": round(rate, 1),
        "quartiles": [round(value, 1) for value in _quartiles(rates)],
        "share_of_peak": round(rate * flops / peak, 3),
        "peak_gflops": round(peak / 1e9),
        "ours_is_faster_by": round(statistics.median(seconds[side]) / baseline, 2),
        "first_loss": round(losses[0], 4),
        "last_loss": round(losses[-1], 4),
    }


def peak_flops(device: str, size: int = PEAK_SIZE, repeats: int = 5) -> float:
    """FLOPs a second of a large square product on all of a device, in its faster type.

    A processor without bfloat16 units would take minutes for the whole in it.
    """
    size *= 1 if device == "cpu" else GPU_IS_LARGER
    probe = dict.fromkeys(("rows", "width", "inner"), size // 8)
    is_native = bfloat16_speedup(torch.device(device), **probe) > 1
    dtype = torch.bfloat16 if is_native else torch.float32
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    durations = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        a @ b
        if device != "cpu":
            torch.cuda.synchronize(device)
        durations.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(durations[1:])


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rows for people."""
    print("| shape | side | tokens/s | quartiles | share of the peak | ours is faster by |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        low, high = row["quartiles"]
        figures = f"{row['tokens_per_s']} | {low} to {high} | {row['share_of_peak']:.0%}"
        faster = "" if row["side"] == "ours" else f"{row['ours_is_faster_by']:.2f}x"
        print(f"| {row['shape']} | {SIDES[row['side']]} | {figures} | {faster} |")


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values)
    return low, high


def _small(recipe: Recipe) -> list[str]:
    """Overrides that leave of a model what a test needs."""
    heads, shared = recipe.model.num_attention_heads, recipe.model.num_key_value_heads
    return [
        "model.num_hidden_layers=1",
        f"model.hidden_size={8 * heads}",
        "model.intermediate_size=32",
        f"model.num_key_value_heads={shared}",
        "model.vocab_size=1024",
    ]


if __name__ == "__main__":
    main()
