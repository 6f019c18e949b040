"""What full-size recipes cost on this machine: seconds a micro-step, peak memory, whole length.

Each recipe trains through ``python -m trainer`` in a process of its own, as a user would start it,
for some micro-steps; nothing is scaled down. Evaluation, samples and saving are not in the
seconds (``train_seconds`` of ``metrics.jsonl``); the peak is the process's largest resident set,
snapshot and checkpoint included. The whole length is arithmetic: micro-steps times seconds.
"""

import argparse
import itertools
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.machine import machine
from trainer.recipe.recipes import load_recipe, override
from trainer.recipe.schema import Recipe
from trainer.recipe.step_plan import Plan
from trainer.report.run_journal import METRICS_FILE, read_lines

LARGE = ("smollm2-135m", "smollm2-135m-learned", "smollm2-135m-untied", "smollm2-135m-curriculum")
COLUMNS = (
    "recipe",
    "micro-step",
    "micro-steps",
    "seconds",
    "spread",
    "tokens/s",
    "first loss",
    "last loss",
    "peak GiB",
    "whole run",
)


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", default=LARGE, metavar="R")
    parser.add_argument("--micro-steps", type=int, default=20, help="at least this many of each")
    parser.add_argument("--volume", type=Path, default=Path("volume/bench"))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="for all of them")
    options = parser.parse_args()
    rows = [
        measure(name, options.micro_steps, options.volume, options.set) for name in options.recipes
    ]
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for row in rows:
        print("| " + " | ".join(str(row[column]) for column in COLUMNS) + " |")
    print(json.dumps({"benchmark": "recipes", **machine(), "rows": rows}))


def measure(name: str, micro_steps: int, volume: Path, overrides: list[str]) -> dict[str, Any]:
    """Train one recipe for so many micro-steps, or a few more to fill its last optimizer step."""
    recipe = override(load_recipe(name), overrides)
    window = recipe.batch.grad_accum_steps
    optimizer_steps = -(-micro_steps // window)
    steps = optimizer_steps * (window if recipe.unit == "micro" else 1)
    run_dir = volume / name
    shutil.rmtree(run_dir, ignore_errors=True)
    peak_bytes = run_trainer(
        ["--recipe", name, "--volume", str(volume), "--steps", str(steps)]
        + [f"--set={value}" for value in [*overrides, "cadence.log_every=1"]]
    )
    lines = [line for line in read_lines(run_dir / METRICS_FILE) if line["kind"] == "train"]
    return figures(recipe, lines, peak_bytes)


def run_trainer(arguments: list[str]) -> int:
    """Run it to its end; returns the largest resident set, in bytes."""
    command = [sys.executable, "-m", "trainer", *arguments]
    print(time.strftime("%H:%M:%S"), shlex.join(command[1:]), file=sys.stderr, flush=True)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the trainer ended with status {process.returncode}")
    return usage.ru_maxrss * 1024


def figures(recipe: Recipe, lines: list[dict[str, Any]], peak_bytes: int) -> dict[str, Any]:
    """One row, from the journal; the first optimizer step is warm-up where there are two."""
    tokens = recipe.batch.micro_batch * recipe.batch.length
    start = {"train_seconds": 0.0, "tokens_seen": 0}
    pairs = list(itertools.pairwise([start, *lines]))[1 if len(lines) > 1 else 0 :]
    seconds = [
        (after["train_seconds"] - before["train_seconds"])
        * tokens
        / (after["tokens_seen"] - before["tokens_seen"])
        for before, after in pairs
    ]
    median = statistics.median(seconds)
    whole = Plan(recipe).num_micro_steps * median
    return {
        "recipe": recipe.name,
        "micro-step": f"{recipe.batch.micro_batch} x {recipe.batch.length}",
        "micro-steps": round(lines[-1]["tokens_seen"] / tokens),
        "seconds": round(median, 2),
        "spread": f"{min(seconds):.2f} to {max(seconds):.2f}",
        "tokens/s": round(tokens / median),
        "first loss": round(lines[0]["loss"], 2),
        "last loss": round(lines[-1]["loss"], 2),
        "peak GiB": round(peak_bytes / 2**30, 2),
        "whole run": f"{whole / 3600:.1f} h",
    }


if __name__ == "__main__":
    main()
