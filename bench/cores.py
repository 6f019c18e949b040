"""What it brings that a step's threads keep to a core each: beside threads that run anywhere.

Two sets of threads and weights in one process take turns, so that a machine that drifts is the same
for both. Threads keep to cores where there are as many; those of the other set are made while the
process is confined to one, and let go. The last line is JSON.
"""

import argparse
import json
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.engine import STREAMS, decode_rate, first_token_s, make_runner, print_table
from bench.machine import machine
from service.engine.pytorch.runner import StepRunner

PROMPT_TOKENS = 512
NEW_TOKENS = 64
CORES = "a core each"
ANYWHERE = "anywhere"

Figures = dict[str, float]


def main() -> None:
    """Measure both in turns, print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="Hugging Face directory; else random weights")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    runners = {CORES: make_runner(options.weights, options.precision, threads)[0]}
    with confined_to_one_core():
        runners[ANYWHERE] = make_runner(options.weights, options.precision, threads)[0]
    seen: dict[str, list[Figures]] = {name: [] for name in runners}
    for seed in range(-1, options.repeats):  # the first time is a warm-up
        for name in (CORES, ANYWHERE) if seed % 2 else (ANYWHERE, CORES):
            seen[name].append(measure(runners[name], seed))
    rows: list[dict[str, object]] = [
        {"threads": name, **in_short(figures[1:])} for name, figures in seen.items()
    ]
    print_table(rows)
    print(json.dumps({"benchmark": "cores", **machine(), "rows": rows}))


@contextmanager
def confined_to_one_core() -> Iterator[None]:
    """What starts within sees one core; in the end its threads, and the caller, get them all."""
    cores, before = os.sched_getaffinity(0), thread_ids()
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        for thread in thread_ids() - before:
            os.sched_setaffinity(thread, cores)


def thread_ids() -> set[int]:
    """Of this process, as Linux numbers them."""
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}


def measure(runner: StepRunner, seed: int) -> Figures:
    """Tokens a second while so many streams decode, and milliseconds to a first token."""
    figures = {f"decode_{n}": decode_rate(runner, n, seed, NEW_TOKENS)[0] for n in STREAMS}
    return figures | {f"ttft_{PROMPT_TOKENS}_ms": 1000 * first_token_s(runner, PROMPT_TOKENS, seed)}


def in_short(figures: list[Figures]) -> dict[str, object]:
    """Median of each figure, with the least and the most."""
    short: dict[str, object] = {}
    for name in figures[0]:
        values = sorted(round(each[name], 1) for each in figures)
        short[name] = round(statistics.median(values), 1)
        short[f"{name}_range"] = f"{values[0]} to {values[-1]}"
    return short


if __name__ == "__main__":
    main()
