"""What clients of a service on a GPU see: rates and latencies through HTTP, and what a swap costs.

A real service over a volume with a model of SmolLM2-135M's shape and random weights. 1, 32 and 256
clients in processes of their own send prompts of 128 token ids to ``/v1/completions``, greedy, 128
new tokens, streamed, end tokens ignored. Then 16 clients stream while newer steps appear, are
loaded and take over: inter-token latencies before, while a step is loaded, and after, and the
seconds from a step's appearing until it serves. Options that this script does not have go to the
service. Prints what it finds and, last, one JSON line.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import random
import statistics
import tempfile
import time
import urllib.parse
from pathlib import Path

import httpx

from bench.gpu_model import smollm2, weights_of, wide_tokenizer
from bench.machine import machine
from bench.swap import RUN, ServiceChild, stage
from lm.volume import Progress, RunLock, StepDetails, model_files, publish

NEW_TOKENS = PROMPT_TOKENS = 128
CLIENT_PROCESSES = 8
SWAP_STREAMS = 16
Times = list[tuple[float, int]]
"""Of one stream: when something came, and how many tokens it had; the request's start first."""


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--swaps", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=30, help="fewer, to try the script out")
    options, for_the_service = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="gpu-http-") as place:
        volume = Path(place)
        staged = prepare(volume, options.swaps, options.layers)
        arguments = ["--volume", str(volume), "--run", RUN, "--device", options.device]
        arguments += ["--max-model-tokens", "2048", "--reuse-prefixes", "false", *for_the_service]
        began = time.perf_counter()
        with ServiceChild(*arguments) as (_, address):
            row: dict[str, object] = {"ready_s": round(time.perf_counter() - began, 2)}
            print(row, flush=True)
            version = httpx.get(f"{address}/version").json()
            row["backend"] = version["backend"]
            for clients in options.clients:
                row |= rates(address, clients, options.repeats)
                print(row, flush=True)
            if staged:
                row |= swaps(address, volume, staged)
    print(json.dumps({"benchmark": "gpu http", **machine(), "service": version, **row}))


def prepare(volume: Path, swaps: int, layers: int) -> list[Path]:
    """Publish step 0, and lay out the others out of sight; they share the file of weights."""
    config = smollm2(layers)
    weights = {piece.name: piece.rows for piece in weights_of(None, config)}
    tokenizer = wide_tokenizer(config.vocab_size)
    details = StepDetails(
        model_config=config,
        tokenizer_fingerprint=tokenizer.fingerprint,
        progress=Progress(micro_step=0, optimizer_step=0, tokens_seen=0),
    )
    with RunLock(volume / RUN):
        first = publish(volume / RUN, 0, model_files(weights, config, tokenizer), details)
    return [stage(volume, first, number) for number in range(1, swaps + 1)]


def rates(address: str, clients: int, repeats: int) -> dict[str, object]:
    """Tokens a second, first tokens and gaps of so many clients at once."""
    rounds = [together(address, clients, turn) for turn in range(repeats + 1)][1:]
    tokens_per_s, ttfts, gaps = [], [], []
    for streams in rounds:
        began = min(times[0][0] for times in streams)
        ended = max(times[-1][0] for times in streams)
        tokens_per_s.append(clients * NEW_TOKENS / (ended - began))  # each stream has counted
        ttfts += [1000 * (times[1][0] - times[0][0]) for times in streams]
        gaps += [1000 * gap for times in streams for gap in gaps_of(times)]
    return {
        f"rate_{clients}": round(statistics.median(tokens_per_s), 1),
        f"rates_{clients}": [round(rate) for rate in tokens_per_s],
        f"ttft_{clients}_p50_ms": quantile(ttfts, 50),
        f"ttft_{clients}_p99_ms": quantile(ttfts, 99),
        f"itl_{clients}_p50_ms": quantile(gaps, 50),
        f"itl_{clients}_p99_ms": quantile(gaps, 99),
    }


def gaps_of(times: Times) -> list[float]:
    """Gap of each token behind the first event; tokens that came together share one."""
    return [
        (after - before) / count
        for (before, _), (after, count) in itertools.pairwise(times[1:])
        for _ in range(count)
    ]


def together(address: str, clients: int, turn: int) -> list[Times]:
    """Every client's stream, all started at once by a few processes."""
    processes = min(CLIENT_PROCESSES, clients)
    start_at = time.time() + 0.3  # one clock for all processes
    shares = [range(first, clients, processes) for first in range(processes)]
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        jobs = [(address, list(share), turn, start_at) for share in shares]
        return [times for part in pool.starmap(share_of_clients, jobs) for times in part]


def share_of_clients(address: str, numbers: list[int], turn: int, start_at: float) -> list[Times]:
    """The streams of some clients, in one process."""

    async def run() -> list[Times]:
        await asyncio.sleep(max(0.0, start_at - time.time()))
        return await asyncio.gather(*(stream(address, 1000 * turn + n) for n in numbers))

    return asyncio.run(run())


async def stream(address: str, seed: int, new_tokens: int = NEW_TOKENS) -> Times:
    """One request over a connection of its own; read by hand, so that the client costs little."""
    host = urllib.parse.urlsplit(address)
    rng = random.Random(seed)
    body = json.dumps(
        {
            "model": RUN,
            "prompt": [rng.randrange(1000) for _ in range(PROMPT_TOKENS)],
            "max_tokens": new_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    times: Times = [(time.time(), 0)]
    reader, writer = await asyncio.open_connection(host.hostname, host.port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host.netloc}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    status = await reader.readline()
    assert b" 200 " in status, (status, await reader.read())
    usage = 0
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        if b'"text"' in line:
            # All but 256 tokens are words with one blank before each.
            count = line.split(b'"text"', 1)[1].split(b'"finish_reason"', 1)[0].count(b" w")
            times.append((time.time(), max(1, count)))
        if b'"completion_tokens"' in line:
            usage = json.loads(line[6:])["usage"]["completion_tokens"]
    writer.close()
    assert usage == new_tokens, f"{usage} tokens"
    return times


def swaps(address: str, volume: Path, staged: list[Path]) -> dict[str, object]:
    """Gaps of 16 streams before, while newer steps are loaded and flipped to, and after."""
    return asyncio.run(swap_all(address, volume, staged))


async def swap_all(address: str, volume: Path, staged: list[Path]) -> dict[str, object]:
    """Keep 16 streams busy; let one step after the other appear."""
    seen: Times = []
    stopping = asyncio.Event()

    async def client(number: int) -> None:
        for turn in itertools.count():
            if stopping.is_set():
                return
            times = await stream(address, 100_000 + 1000 * turn + number)
            seen.extend(zip((at for at, _ in times[2:]), gaps_between(times), strict=True))

    clients = [asyncio.create_task(client(number)) for number in range(SWAP_STREAMS)]
    await asyncio.sleep(4)
    periods: dict[str, list[tuple[float, float]]] = {"before": [(time.time() - 3, time.time())]}
    load_s = []
    async with httpx.AsyncClient(base_url=address, timeout=60) as asking:
        for path in staged:
            began = time.time()
            path.rename(volume / RUN / path.name)
            name = f"{RUN}@{int(path.name.removeprefix('step-'))}"
            while (await asking.get("/readyz")).json()["checkpoint"] != name:
                await asyncio.sleep(0.01)
            flipped = time.time()
            load_s.append(round(flipped - began, 2))
            periods.setdefault("load", []).append((began, flipped))
            await asyncio.sleep(2)
            periods.setdefault("after", []).append((flipped, time.time()))
    stopping.set()
    await asyncio.gather(*clients)
    row: dict[str, object] = {"appear_to_serve_s": load_s}
    for name, spans in periods.items():
        gaps = [gap for at, gap in seen if any(start <= at < end for start, end in spans)]
        row[f"swap_{name}_p50_ms"] = quantile(gaps, 50)
        row[f"swap_{name}_p99_ms"] = quantile(gaps, 99)
        row[f"swap_{name}_max_ms"] = round(max(gaps, default=float("nan")), 1)
    print(row, flush=True)
    return row


def gaps_between(times: Times) -> list[float]:
    """Milliseconds before each event behind the first."""
    return [1000 * (after - before) for (before, _), (after, _) in itertools.pairwise(times[1:])]


def quantile(values: list[float], percent: int) -> float:
    """The value that so many percent are not above."""
    if not values:
        return float("nan")
    return round(sorted(values)[min(len(values) * percent // 100, len(values) - 1)], 2)


if __name__ == "__main__":
    main()
