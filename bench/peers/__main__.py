"""``make bench-peers``: this engine and others, on one run's weights, in turns on this machine.

Each peer gets an environment of its own under the cache directory, from the package index, and
files made from the same float32 weights. One that cannot be installed is named with the reason.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from bench.engine import HELD_OUT_PLAYS, TEXT_CHARACTERS, WINDOW, print_table
from bench.machine import machine
from lm.tokenizer import Tokenizer
from trainer.corpus.shakespeare import find_plays, plain_text

LLAMA_CPP = "llama-cpp-python==0.3.36"
PAIRS = (("bfloat16", "BF16"), ("int8", "Q8_0"), ("int4", "Q4_0"), (None, "Q4_1"))
"""Our precision and llama.cpp's of equal weight bits, measured one after the other. Our int4 has a
least value to every scale, as Q4_1 has, and is compared with the faster Q4_0."""
INSTALL_TIMEOUT_S = 3600


def main() -> None:
    """Measure everybody, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="RUN[@STEP] of the volume, e.g. an imported SmolLM2")
    parser.add_argument("--volume", type=Path, default=Path("volume"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nestling" / "peers"
    weights = exported(options, cache, "hf")
    windows = cache / "windows.json"
    windows.write_text(json.dumps(held_out_windows(weights)))
    python = environment(cache / "llama_cpp", LLAMA_CPP)
    gguf = None if python is None else next(exported(options, cache, "gguf").glob("*F16.gguf"))
    rows = []
    shared = ["--threads", str(options.threads), "--repeats", str(options.repeats)]
    for ours, theirs in PAIRS:
        if ours is not None:
            command = [sys.executable, "-m", "bench.engine", "--one", ours, *shared]
            row = last_line([*command, "--weights", str(weights)])
            row.pop("profile_ms")
            rows.append({"peer": f"nestling {row.pop('backend')}", **row})
        if python is not None:
            script = Path(__file__).with_name("llama_cpp_engine.py")
            command = [str(python), str(script), "--gguf", str(gguf), "--type", theirs, *shared]
            rows.append(last_line([*command, "--windows", str(windows)]))
    names = list(rows[-1])
    print_table([{name: row.get(name) for name in names} for row in rows])
    print(json.dumps({"benchmark": "peers", **machine(), "rows": rows}))


def held_out_windows(weights: Path) -> list[list[int]]:
    """The token ids that ``bench.engine`` measures perplexity on."""
    plays = find_plays()
    text = "".join(
        plain_text(plays[name].read_text("utf-8"))[:TEXT_CHARACTERS] for name in HELD_OUT_PLAYS
    )
    token_ids = Tokenizer.load(weights).encode(text)
    return [token_ids[start : start + WINDOW] for start in range(0, len(token_ids) - 1, WINDOW)]


def exported(options: argparse.Namespace, cache: Path, form: str) -> Path:
    """The run's weights as files of a form, written once."""
    directory = cache / f"{options.run.replace('@', '-')}-{form}"
    if not directory.exists():
        command = [sys.executable, "-m", "trainer", "export", options.run, "--format", form]
        command += ["--volume", str(options.volume), "--output", str(directory)]
        subprocess.run([*command, "--measure-tokens", "0"], check=True)
    return directory


def environment(directory: Path, requirement: str) -> Path | None:
    """A Python with a peer installed, or ``None`` and a line that says why not."""
    python = directory / "bin" / "python"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", requirement, "numpy"]
        subprocess.run(install, check=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.SubprocessError as error:
        print(f"{requirement} cannot be installed here: {error}", file=sys.stderr)
        return None
    return python


def last_line(command: list[str]) -> dict[str, object]:
    """The JSON that a command ends with."""
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return row


if __name__ == "__main__":
    main()
