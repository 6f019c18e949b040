"""How fast a training step is on one GPU: ours beside a plain loop and Hugging Face's Trainer.

SmolLM2-135M's shape in bfloat16 autocast over float32 weights, AdamW, clipping, random weights.
Ours is ``trainer.run.assemble.train`` as it is by default (compiled by parts), with evaluation and
a checkpoint in the middle of the run, and the same eager. ``plain`` is the sixty lines of
``bench.training.plain_llama``, each block compiled by itself; Hugging Face's ``Trainer`` runs as it
is. Medians over all steps after the warm-up, with quartiles; steps before and after an evaluation
or a checkpoint are left out, and the stall of checkpoints is a figure of its own. FLOPs
count 6 a weight and causal attention (half of all pairs); the measured peak is that of a product of
square bfloat16 matrices. Prints a table and, last, one JSON line. What was compiled before is in
the compiler's cache: ``--cold`` begins with an empty one.
"""

import argparse
import contextlib
import functools
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from bench.machine import machine
from bench.training.__main__ import peak_flops
from bench.training.gpu_sides import measure_ours, measure_theirs, median_stall
from bench.training.measured import Measured, Shape
from bench.training.plain_llama import measure_plain
from trainer.step.compiled import CACHE_VARIABLE

Side = Callable[[Shape, int, torch.device], Measured]
SIDES: dict[str, Side] = {
    "ours": functools.partial(measure_ours, compiles="auto"),
    "ours-compiled": functools.partial(measure_ours, compiles=True),
    "ours-eager": functools.partial(measure_ours, compiles=False),
    "ours-any-order": functools.partial(measure_ours, compiles="auto", deterministic=False),
    "ours-half-residual": functools.partial(measure_ours, compiles="auto", half_residual=True),
    "ours-half-any-order": functools.partial(
        measure_ours, compiles="auto", half_residual=True, deterministic=False
    ),
    "ours-muon": functools.partial(measure_ours, compiles="auto", optimizer="muon"),
    "plain": functools.partial(measure_plain, regional=True),
    "plain-eager": functools.partial(measure_plain, regional=False),
    "huggingface": functools.partial(measure_theirs, compiles=False),
    "huggingface-compiled": functools.partial(measure_theirs, compiles=True),
}
DEFAULT_SIDES = ("ours", "ours-any-order", "plain", "huggingface", "ours-eager")
SHAPES = ("8x2048", "4x256", "32x512", "32x2048")
ATTENTIONS = ("auto", "flash", "cudnn", "efficient")
WARM_UP = 4


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=DEFAULT_SIDES)
    parser.add_argument("--shapes", nargs="+", default=["8x2048"], help=f"as {', '.join(SHAPES)}")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--device", default="cuda", help="cuda or cpu (default: cuda)")
    parser.add_argument("--attention", choices=ATTENTIONS, default="auto", help="kernel of SDPA")
    parser.add_argument("--cold", action="store_true", help="begin with an empty compiler cache")
    parser.add_argument("--quick", action="store_true", help="a model of two layers, few steps")
    options = parser.parse_args()
    if options.cold:
        os.environ[CACHE_VARIABLE] = tempfile.mkdtemp(prefix="inductor-")
    device = torch.device(options.device)
    torch.set_float32_matmul_precision("high")
    peak = peak_flops(device.type, size=256 if options.quick else 2048)
    warm_up, steps = (1, 4) if options.quick else (WARM_UP, options.steps)
    rows = []
    with attention_of(options.attention):
        for text in options.shapes:
            for side in options.sides:
                shape = shape_of(text, quick=options.quick)
                rows.append(measure(side, shape, steps, warm_up, device, peak))
    print_table(rows)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    figures = {"card": card, "peak_tflops": round(peak / 1e12, 1), "stall_s": median_stall(rows)}
    figures |= {"attention": options.attention, "cold": options.cold}
    print(json.dumps({"benchmark": "training-gpu", **machine(), **figures, "rows": rows}))


def measure(
    side: str, shape: Shape, steps: int, warm_up: int, device: torch.device, peak: float
) -> dict[str, Any]:
    """One side's row; what fails is said in it, and the next one is measured."""
    began = time.perf_counter()
    try:
        row = SIDES[side](shape, steps, device).row(side, shape, warm_up, peak)
    except Exception as error:  # noqa: BLE001 - device minutes are short: the other sides go on
        row = {"side": side, "shape": f"{shape.rows} x {shape.length}", "error": repr(error)[:300]}
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    row["whole_s"] = round(time.perf_counter() - began, 1)
    print(time.strftime("%H:%M:%S"), json.dumps(row), file=sys.stderr, flush=True)
    return row


def shape_of(text: str, *, quick: bool) -> Shape:
    """``ROWSxLENGTH`` at SmolLM2-135M's shape, or a model of two layers."""
    rows, length = map(int, text.split("x"))
    if not quick:
        return Shape(rows, length)
    small = {"layers": 2, "width": 64, "inner": 96, "heads": 4, "kv_heads": 2, "vocab": 1024}
    return Shape(min(rows, 2), min(length, 32), **small)


def attention_of(name: str) -> Any:
    """A context in which attention runs by one kernel, or by what PyTorch chooses."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if name == "auto":
        return contextlib.nullcontext()
    return sdpa_kernel(SDPBackend[f"{name.upper()}_ATTENTION"])


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rows for people."""
    names = (
        "shape", "side", "tokens_per_s", "quartiles", "ms", "tflops", "mfu",
        "share_of_measured_peak", "first_step_s", "peak_gb", "whole_s",
    )  # fmt: skip
    print("| " + " | ".join(names) + " |")
    print("|---" * len(names) + "|")
    for row in rows:
        print("| " + " | ".join(str(row.get(name, row.get("error", ""))) for name in names) + " |")


if __name__ == "__main__":
    main()
