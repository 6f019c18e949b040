"""Renders the JSON lines of ``bench/gpu_check.sh`` as a dated file of ``bench/results``.

Reads the logs that are named; a line that is no JSON object with ``benchmark`` is passed over.
Tables hold what was measured, ours beside vLLM's where both were; the lines themselves follow.
Writes ``gpu_CARD_DATE.md`` into ``--results`` and never over a file that is there; prints its name.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def main() -> None:
    """Read, render, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logs", nargs="+", type=Path)
    parser.add_argument("--steps", type=Path, help="lines of step, outcome and seconds, by tabs")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    rows = [row for path in options.logs for row in json_lines(path.read_text("utf-8"))]
    if not rows:
        sys.exit("bench.gpu_report: the logs hold no result")
    steps = [] if options.steps is None else read_steps(options.steps.read_text("utf-8"))
    date = time.strftime("%Y-%m-%d")
    path = new_path(options.results, f"gpu_{slug(card_of(rows))}_{date}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(rows, steps, date), "utf-8")
    print(path)


def json_lines(text: str) -> list[Row]:
    """The results among the lines of a log."""
    found = []
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "benchmark" in row:
                found.append(row)
    return found


def read_steps(text: str) -> list[list[str]]:
    """Name, outcome and seconds of each step."""
    return [line.split("\t") for line in text.splitlines() if line.strip()]


def card_of(rows: Iterable[Row]) -> str:
    """The card that the rows name."""
    return next((str(row["card"]) for row in rows if row.get("card")), "unknown")


def slug(card: str) -> str:
    """A card in a file's name: ``NVIDIA H100 80GB HBM3`` is ``h100``."""
    words = re.sub(r"^NVIDIA ", "", card).split()
    sizes = [number for number, word in enumerate(words) if re.fullmatch(r"\d+GB", word)]
    name = "-".join(words[: sizes[0]] if sizes else words).lower()
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-") or "unknown"


def new_path(directory: Path, name: str) -> Path:
    """A file that is not there yet."""
    for number in range(1, 1000):
        path = directory / (f"{name}.md" if number == 1 else f"{name}_{number}.md")
        if not path.exists():
            return path
    raise FileExistsError(f"{directory / name}.md and a thousand more")


def render(rows: Sequence[Row], steps: Sequence[Sequence[str]], date: str) -> str:
    """The whole file."""
    by_name = {str(row["benchmark"]): row for row in rows}
    ours, theirs = by_name.get("gpu", {}), by_name.get("gpu peer", {})
    torch = next((row["torch"] for row in rows if "torch" in row), "unknown")
    parts = [
        f"# On one {card_of(rows)}, {date}",
        "`bench/gpu_check.sh`: SmolLM2-135M's shape, random weights, bfloat16, prompts and outputs "
        f"of 128 tokens, everything on one machine in one run. PyTorch {torch}.",
    ]
    if steps:
        parts.append(section("Steps", table(("step", "outcome", "seconds"), steps)))
    for title, body in (
        ("Checks", checks(rows)),
        ("The engine alone, tokens/s", engine(ours, theirs)),
        ("Time to the first token, ms", first_tokens(ours, theirs)),
        ("Guesses, times as fast as without", pairs(ours.get("guesses"))),
        ("Through HTTP, streamed", http(by_name.get("gpu http", {}))),
        ("Swaps under 16 streams, ms between tokens", swaps(by_name.get("gpu http", {}))),
        ("Steps alone, ms", pairs(ours.get("steps"))),
        ("Training", training(by_name.get("training-gpu", {}))),
    ):
        if body:
            parts.append(section(title, body))
    lines = "\n".join(json.dumps(row) for row in rows)
    parts.append(f"```\n{lines}\n```")
    return "\n\n".join(parts) + "\n"


def section(title: str, body: str) -> str:
    """A heading over a table."""
    return f"## {title}\n\n{body}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; empty without rows."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *lines])


def pairs(found: Row | None) -> str:
    """Names and values."""
    return table(("", "measured"), (found or {}).items())


def checks(rows: Iterable[Row]) -> str:
    """What was compared with a definition, and how it came out; kernels by the model's shape."""
    found: list[tuple[str, object]] = []
    for row in rows:
        if row["benchmark"] == "gpu kernels":
            shape = f"{row.get('layers')} layers of {row.get('hidden_size')}"
            found += [
                (f"{name.replace('_', ' ')}, {shape}", unless_none(row[name]))
                for name in ("distance", "drawn_elsewhere", "transformers_misses")
                if name in row
            ]
        if row["benchmark"] == "gpu":
            found += (row.get("check") or {}).items()
            found += [("fault", fault) for fault in row.get("faults") or []]
    return table(("compared", "found"), found)


def unless_none(value: object) -> object:
    """A cell of what may have had nothing to be compared with."""
    return "not compared" if value is None else value


def sizes(rows: Iterable[Row], name: str) -> list[int]:
    """The numbers N of the fields ``name_N``."""
    found = {
        match[1] for row in rows for key in row if (match := re.fullmatch(rf"{name}_(\d+)", key))
    }
    return sorted(map(int, found))


def engine(ours: Row, theirs: Row) -> str:
    """Rates by way of drawing; vLLM's where it was measured, and ours divided by its."""
    measured = ours.get("rates") or []
    peers = {row["drawn"]: row for row in theirs.get("rates") or []}
    rows: list[list[object]] = []
    for kind, words in (("decode", "decode"), ("e2e", "end to end")):
        for streams in sizes([*measured, *peers.values()], kind):
            for row in measured or peers.values():
                name, field = row["drawn"], f"{kind}_{streams}"
                mine = row.get(field) if measured else None
                peer = peers.get(name, {}).get(field)
                rows.append(
                    [f"{words} x{streams}, {name}", shown(mine), shown(peer), ratio(mine, peer)]
                )
    return table(("", "nestling", str(theirs.get("peer", "vllm")), "times as fast"), rows)


def first_tokens(ours: Row, theirs: Row) -> str:
    """Of prompts by their length."""
    mine, peers = ours.get("first_token") or {}, theirs.get("first_token") or {}
    rows = [
        [
            name,
            shown(mine.get(name)),
            shown(peers.get(name)),
            ratio(peers.get(name), mine.get(name)),
        ]
        for name in dict.fromkeys([*mine, *peers])
    ]
    return table(("", "nestling", str(theirs.get("peer", "vllm")), "times as fast"), rows)


def http(row: Row) -> str:
    """Rates and latencies by the number of clients."""
    names = ("ttft_{}_p50_ms", "ttft_{}_p99_ms", "itl_{}_p50_ms", "itl_{}_p99_ms")
    rows = [
        [clients, row[f"rate_{clients}"], *(shown(row.get(n.format(clients))) for n in names)]
        for clients in sizes([row], "rate")
    ]
    head = ("clients", "tokens/s", "TTFT p50 ms", "p99", "ITL p50 ms", "p99")
    return table(head, rows)


def swaps(row: Row) -> str:
    """Before, while a step is loaded, and after; and how long that takes."""
    periods = [name for name in ("before", "load", "after") if f"swap_{name}_p99_ms" in row]
    rows = [
        [name, *(shown(row.get(f"swap_{name}_{what}_ms")) for what in ("p50", "p99", "max"))]
        for name in periods
    ]
    body = table(("", "p50", "p99", "max"), rows)
    if body and "appear_to_serve_s" in row:
        seconds = ", ".join(map(str, row["appear_to_serve_s"]))
        body += f"\n\nFrom a step's appearing until it serves: {seconds} s."
    if "ready_s" in row:
        body += f"\n\nFrom the process's start to ready: {row['ready_s']} s."
    return body.strip()


def training(row: Row) -> str:
    """One row a side."""
    names = ("side", "shape", "tokens_per_s", "mfu", "first_step_s", "peak_gb")
    rows = [
        [shown(side.get(name, side.get("error") if name == "tokens_per_s" else None))
         for name in names]
        for side in row.get("rows") or []
    ]  # fmt: skip
    return table(names, rows)


def shown(value: object) -> object:
    """A cell; empty where nothing was measured."""
    return "" if value is None else value


def ratio(first: float | None, second: float | None) -> str:
    """One divided by the other, where both were measured."""
    return f"{first / second:.2f}" if first and second else ""


if __name__ == "__main__":
    main()
