"""How long a service takes from the start of its process until it is ready, and what it holds then.

Starts ``python -m service`` over a run of a volume again and again, its files in the page cache,
and asks ``/healthz`` and ``/readyz`` every few milliseconds. Beside it, what parts take by
themselves: an interpreter, PyTorch, everything but the web framework, everything. Medians; the last
line is JSON.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from bench.machine import machine

IMPORTS = {
    "interpreter": "pass",
    "PyTorch": "import torch",
    "PyTorch and the engine": "import service.runtime",
    "the web framework, too": "import service.runtime, service.http.app, service.http.server",
}
ASK_EVERY_S = 0.005
TIMEOUT_S = 120.0
_LISTENING = re.compile(r"running on (http://[\d.]+:\d+)")
_LOADED = re.compile(r"loaded in ([\d.]+) s")


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="of the volume")
    parser.add_argument("--volume", type=Path, default=Path("volume"))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    command = ["-m", "service", "--volume", str(options.volume), "--run", options.run]
    command += ["--dtype", options.dtype, "--port", "0", "--log-format", "console"]
    start([sys.executable, *command])  # whatever is not in the page cache yet
    rows = {
        f"import {name}": summary([import_s(code) for _ in range(options.repeats)])
        for name, code in IMPORTS.items()
    }
    starts = [start([sys.executable, *command]) for _ in range(options.repeats)]
    rows |= {name: summary([values[name] for values in starts]) for name in starts[0]}
    print("| | median | least | most |\n|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['median']} | {row['least']} | {row['most']} |")
    print(json.dumps({"benchmark": "startup", **machine(), "dtype": options.dtype, "rows": rows}))


def import_s(code: str) -> float:
    """Seconds of a process that imports something."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def start(command: list[str]) -> dict[str, float]:
    """Start a service once: seconds until it listens and is ready, and gigabytes of memory."""
    began = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        log = ""
        try:
            while (listening := _LISTENING.search(log)) is None:
                line = process.stderr.readline()
                if not line:
                    raise SystemExit(f"the service ended:\n{log}")
                log += line
            wait_for(f"{listening[1]}/healthz")
            live_s = time.perf_counter() - began
            wait_for(f"{listening[1]}/readyz")
            ready_s = time.perf_counter() - began
            memory = psutil.Process(process.pid).memory_info().rss
            status = Path(f"/proc/{process.pid}/status").read_text()
        finally:
            process.terminate()
            log += process.stderr.read()
    loaded, peak = _LOADED.search(log), re.search(r"VmHWM:\s+(\d+)", status)
    assert loaded is not None
    assert peak is not None
    return {
        "until /healthz, s": live_s,
        "until /readyz, s": ready_s,
        "of that loading, s": float(loaded[1]),
        "memory then, GB": memory / 1e9,
        "peak memory, GB": int(peak[1]) * 1024 / 1e9,
    }


def wait_for(url: str) -> None:
    """Until it answers 200."""
    deadline = time.perf_counter() + TIMEOUT_S
    while time.perf_counter() < deadline:
        try:
            with urllib.request.urlopen(url):
                return
        except urllib.error.URLError:
            time.sleep(ASK_EVERY_S)
    raise SystemExit(f"{url} did not answer in {TIMEOUT_S:.0f} s")


def summary(values: list[float]) -> dict[str, float]:
    """Median and spread, to two places."""
    return {
        "median": round(statistics.median(values), 2),
        "least": round(min(values), 2),
        "most": round(max(values), 2),
    }


if __name__ == "__main__":
    main()
