"""Whether our trainer learns what Hugging Face's does: loss curves from one beginning.

Both sides train the same weights on the same batches at the same rate, so they differ in rounding
alone (``bench.training.workload``). A third run, ours again on batches drawn from another seed,
shows how far apart two runs of one trainer are. The measure: the mean absolute difference of the
losses, each smoothed over a window, between both sides, against that between the two seeds. The
curves are equal within noise if the first is no larger. Prints a table and one JSON line.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.machine import machine
from bench.training.process import start
from bench.training.workload import begin, comparable
from trainer.recipe.schema import Recipe

WINDOW = 20
ROWS_OF_TABLE = 10


def main() -> None:
    """Train three times, print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="smollm2-135m")
    parser.add_argument("--batch", nargs=2, type=int, default=(4, 256), metavar=("ROWS", "TOKENS"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    recipe = comparable(options.recipe, *options.set, batch=tuple(options.batch))
    other = comparable(options.recipe, *options.set, f"seed={recipe.seed + 1}", batch=options.batch)
    curves = {
        "ours": train("ours", recipe, recipe, options.steps),
        "huggingface": train("huggingface", recipe, recipe, options.steps),
        "another seed": train("ours", recipe, other, options.steps),
    }
    figures = compare(curves)
    print_table(curves)
    print(
        f"mean distance of the smoothed losses: {figures['between_sides']} to Hugging Face, "
        f"{figures['between_seeds']} to another seed: "
        + ("equal within noise" if figures["equal_within_noise"] else "NOT equal within noise")
    )
    result = figures | {name: [round(loss, 4) for loss in curve] for name, curve in curves.items()}
    print(json.dumps({"benchmark": "loss_curves", **machine(), **result}))


def train(side: str, weights: Recipe, recipe: Recipe, steps: int) -> list[float]:
    """Losses of one run of a recipe that begins at the fresh weights of another."""
    print(time.strftime("%H:%M:%S"), side, f"seed {recipe.seed}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as place:
        begin(weights, Path(place))
        with start(side, recipe, Path(place), [steps]) as process:
            return [line["loss"] for line in process.round()]


def compare(curves: dict[str, list[float]]) -> dict[str, object]:
    """How far apart the smoothed curves are."""
    ours = smooth(curves["ours"])
    sides, seeds = (
        statistics.fmean(abs(a - b) for a, b in zip(ours, smooth(curves[name]), strict=True))
        for name in ("huggingface", "another seed")
    )
    return {
        "steps": len(curves["ours"]),
        "window": WINDOW,
        "between_sides": round(sides, 5),
        "between_seeds": round(seeds, 5),
        "equal_within_noise": sides <= seeds,
    }


def smooth(losses: Sequence[float]) -> list[float]:
    """Means over windows of consecutive losses; as it is if there are fewer than one window."""
    width = min(WINDOW, len(losses))
    return [
        statistics.fmean(losses[first : first + width]) for first in range(len(losses) - width + 1)
    ]


def print_table(curves: dict[str, list[float]]) -> None:
    """Mean losses of consecutive stretches, for people."""
    steps = len(curves["ours"])
    width = max(1, steps // ROWS_OF_TABLE)
    print("| steps | " + " | ".join(curves) + " |\n|" + "---|" * (len(curves) + 1))
    for first in range(0, steps, width):
        stretch = slice(first, first + width)
        means = " | ".join(f"{statistics.fmean(curve[stretch]):.4f}" for curve in curves.values())
        print(f"| {first + 1} to {min(first + width, steps)} | {means} |")


if __name__ == "__main__":
    main()
