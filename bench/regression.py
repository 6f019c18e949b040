"""Whether this engine became slower than it was, told by ratios and not by a clock.

Two results of ``bench.engine`` or ``bench.peers``, files with their JSON line among others: the
rates and times of each row of ours are divided by those of a base row of the same run, by default
PyTorch in bfloat16, and only these ratios are compared, so that another machine or a busy one does
not look like a regression. Perplexity and peak memory are compared as they are.
Exit status 1 if anything is worse by more than the tolerance.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

BASE = "torch bfloat16"
TOLERANCE = 0.2
"""Of ratios; medians of a shared machine differ by a tenth from run to run."""
RATES = ("decode_1", "decode_8", "decode_32", "e2e_1", "e2e_8", "e2e_32")
TIMES = ("ttft_512_ms", "ttft_1024_ms")
FIXED = {"perplexity": 0.005, "peak_gb": 0.1}
"""What no clock decides, less being better, and how much more is let pass."""

Rows = Mapping[str, Mapping[str, Any]]


def main() -> int:
    """Compare two results; 1 if the newer one is worse."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--base", default=BASE, help=f"row to divide by [{BASE}]")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help=f"[{TOLERANCE}]")
    options = parser.parse_args()
    old, new = (rows_of(path.read_text("utf-8")) for path in (options.old, options.new))
    compared = list(compare(old, new, base=options.base))
    if not compared:
        raise SystemExit(f"the results have no rows in common beside {options.base!r}")
    print("| row | figure | old | new | worse by |\n|---|---|---|---|---|")
    for row, figure, before, after, worse in compared:
        print(f"| {row} | {figure} | {before:.3g} | {after:.3g} | {worse:+.0%} |")
    failed = [
        f"{row} {figure}"
        for row, figure, _, _, worse in compared
        if worse > FIXED.get(figure, options.tolerance)
    ]
    print(f"worse: {', '.join(failed)}" if failed else "nothing is worse")
    return 1 if failed else 0


def rows_of(text: str) -> Rows:
    """Our rows of the last result in a text, by backend and precision.

    Raises ``ValueError`` if there is none.
    """
    for line in reversed(text.splitlines()):
        if line.startswith(('{"benchmark": "engine"', '{"benchmark": "peers"')):
            rows = json.loads(line)["rows"]
            named = {name_of(row): row for row in rows}
            return {name: row for name, row in named.items() if name is not None}
    raise ValueError("no result of bench.engine or bench.peers")


def name_of(row: Mapping[str, Any]) -> str | None:
    """``native int8``: what computes, whatever the instruction set; ``None`` for a peer."""
    backend = str(row.get("backend") or row.get("peer", ""))
    kind = next((kind for kind in ("native", "torch") if kind in backend.split()), None)
    return None if kind is None else f"{kind} {row['precision']}"


def compare(old: Rows, new: Rows, *, base: str) -> Iterator[tuple[str, str, float, float, float]]:
    """Row, figure, its value then and now, and the share by which it is worse now."""
    for row in (name for name in old if name in new):
        if row != base and base in old and base in new:
            for figure in (*RATES, *TIMES):
                before, after = (rows[row][figure] / rows[base][figure] for rows in (old, new))
                faster = after / before if figure in RATES else before / after
                yield row, figure, before, after, 1.0 / faster - 1.0
        for figure in FIXED:
            before, after = old[row].get(figure), new[row].get(figure)
            if before is not None and after is not None:
                yield row, figure, before, after, after / before - 1.0


if __name__ == "__main__":
    sys.exit(main())
