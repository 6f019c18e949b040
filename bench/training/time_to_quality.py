"""How long learning takes: seconds from a cold start to bits per byte on held-out text.

A recipe trains through ``python -m trainer`` in a process of its own, as a user would start it, in
an empty volume: imports, learning the tokenizer, encoding the text, training, logs and checkpoints
all count, and evaluation alone is subtracted. The clock is this process's: it starts before the
trainer does and is read when an evaluation appears in ``metrics.jsonl``. A target is reached at
the first evaluation at or below it, and only by one that scored all of the held-out text.
``--reference`` then trains nanoGPT's model for CPUs on the same text
(``bench.training.character_model``), so that both figures are of one machine and one hour.
"""

import argparse
import dataclasses
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.machine import machine
from trainer.report.run_journal import METRICS_FILE, read_lines

TARGETS = (2.72, 2.12)
"""Bits per byte that nanoGPT's recipes for a CPU and for a GPU reach on tiny Shakespeare."""
POLL_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class Mark:
    """One evaluation, and when it was there."""

    step: int
    tokens_seen: int
    bits_per_byte: float
    validation_tokens: int
    wall_s: float
    """Since the trainer was started, evaluations included."""
    seconds: float
    """The same without this and all earlier evaluations."""


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", required=True, metavar="file:PATH", help="its tail is held out")
    parser.add_argument("--recipe", default="speedrun", metavar="R")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="recipe values")
    parser.add_argument("--targets", nargs="+", type=float, default=TARGETS, metavar="BPB")
    parser.add_argument("--reference", action="store_true", help="train nanoGPT's model as well")
    options = parser.parse_args()
    overrides = [f"--set={value}" for value in options.set]
    marks = measure(["--recipe", options.recipe, "--corpus", options.corpus, *overrides])
    reached = {target: reach(marks, target) for target in options.targets}
    print_table(marks, reached)
    result = {
        "recipe": options.recipe,
        "set": options.set,
        "seconds_to": {target: mark and mark.seconds for target, mark in reached.items()},
        "evaluations": [dataclasses.asdict(mark) for mark in marks],
    }
    if options.reference:
        result["reference"] = reference = train_reference(options.corpus)
        print(f"reference: {reference['bits_per_byte']} after {reference['seconds']} s")
    print(json.dumps({"benchmark": "time_to_quality", **machine(), **result}))


def measure(arguments: Sequence[str]) -> list[Mark]:
    """Train to the end, and tell when each evaluation was there."""
    with tempfile.TemporaryDirectory() as volume:
        command = [sys.executable, "-m", "trainer", "--volume", volume, "--run", "run", *arguments]
        print(shlex.join(command[1:]), file=sys.stderr, flush=True)
        walls: list[float] = []
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            is_running = True
            while is_running:
                is_running = process.poll() is None
                lines = evaluations(Path(volume) / "run")
                walls += [time.perf_counter() - began] * (len(lines) - len(walls))
                time.sleep(POLL_SECONDS)
        if process.returncode:
            raise SystemExit(f"the trainer ended with status {process.returncode}")
    return marks_of(lines, walls)


def evaluations(run_dir: Path) -> list[dict[str, Any]]:
    """The run's evaluations so far."""
    return [line for line in read_lines(run_dir / METRICS_FILE) if line["kind"] == "evaluation"]


def marks_of(lines: Sequence[dict[str, Any]], walls: Sequence[float]) -> list[Mark]:
    """Evaluations with the time since the start, and that time less all evaluation so far."""
    marks, evaluating = [], 0.0
    for line, wall in zip(lines, walls, strict=True):
        evaluating += line["seconds"]
        kept = ("step", "tokens_seen", "bits_per_byte", "validation_tokens")
        seconds = round(wall - evaluating, 2)
        marks.append(Mark(**{k: line[k] for k in kept}, wall_s=round(wall, 2), seconds=seconds))
    return marks


def reach(marks: Sequence[Mark], target: float) -> Mark | None:
    """The first evaluation of all held-out text at or below a target."""
    whole = max(mark.validation_tokens for mark in marks)
    good = (m for m in marks if m.bits_per_byte <= target and m.validation_tokens == whole)
    return next(good, None)


def print_table(marks: Sequence[Mark], reached: dict[float, Mark | None]) -> None:
    """Every evaluation, then what was reached when."""
    print("| step | tokens | bits per byte | seconds | seconds with evaluation |")
    print("|---|---|---|---|---|")
    for mark in marks:
        figures = f"{mark.bits_per_byte:.3f} | {mark.seconds:.1f} | {mark.wall_s:.1f}"
        print(f"| {mark.step:,} | {mark.tokens_seen:,} | {figures} |")
    for target, first in reached.items():
        print(f"{target} bits per byte: {f'{first.seconds:.1f} s' if first else 'not reached'}")


def train_reference(corpus: str) -> dict[str, Any]:
    """Train nanoGPT's model for CPUs in a process of its own; the same clock."""
    path = corpus.removeprefix("file:")
    command = [sys.executable, "-m", "bench.training.character_model", path]
    began = time.perf_counter()
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    wall = time.perf_counter() - began
    result: dict[str, Any] = json.loads(finished.stdout)
    return result | {"seconds": round(wall - result["evaluation_s"], 2)}


if __name__ == "__main__":
    main()
