"""What a swap costs those who are being answered: inter-token latency and memory, under full load.

A real service over a real volume, and 16 clients that always stream. A newer step appears (one
rename of a directory that was prepared before), is loaded and takes over; the next one appears some
seconds after the last old stream has ended. Latencies are what a client sees, between two events of
a stream, by the phase in which the later one came:

- before: no swap yet;
- load: from the step's being opened until new requests go to it (the service's own load seconds);
- overlap: until the last stream on the old weights has ended;
- after: from then until the next step appears.
"""

import argparse
import asyncio
import dataclasses
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil

from bench.engine import machine
from lm.model.decoder import Decoder
from lm.model.initialize import initialize
from lm.text.tokenizer import Tokenizer
from lm.volume import Progress, RunLock, Step, StepDetails, model_files, publish, step_name
from trainer.convert.importing.source import read_source
from trainer.recipe.recipes import load_recipe

RUN = "bench"
SETTLE_S = 5.0
"""After the last old stream: within so long, memory must be that of one model again."""
PHASES = ("before", "load", "overlap", "after")


@dataclasses.dataclass
class Swap:
    """Moments of one swap, readings of ``time.perf_counter``."""

    name: str
    published: float
    opened: float = math.nan
    flipped: float = math.nan
    drained: float = math.nan
    settled: float = math.nan


@dataclasses.dataclass
class Record:
    """Everything that was seen."""

    tokens: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    """When each token came, and the gap before it."""
    ends: list[tuple[float, str, int]] = dataclasses.field(default_factory=list)
    """When each stream ended, who answered it, and its tokens."""
    failures: list[str] = dataclasses.field(default_factory=list)
    started: dict[int, float] = dataclasses.field(default_factory=dict)
    """When each client's present stream began."""
    memory: list[tuple[float, int]] = dataclasses.field(default_factory=list)
    """The service's resident bytes."""
    began: float = math.nan
    swaps: list[Swap] = dataclasses.field(default_factory=list)


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights", default="weights/SmolLM2-135M-Instruct.Q4_1.gguf", metavar="SOURCE"
    )
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="of each stream")
    parser.add_argument("--swaps", type=int, default=6)
    parser.add_argument("--before", type=float, default=30.0, help="seconds without a swap")
    parser.add_argument(
        "--quick", action="store_true", help="a small random model, 4 streams of 32, two swaps"
    )
    options = parser.parse_args()
    if options.quick:
        options.streams, options.tokens, options.swaps, options.before = 4, 32, 2, 3.0
    with tempfile.TemporaryDirectory(prefix="swap-") as place:
        volume = Path(place)
        staged = prepare(volume, None if options.quick else options.weights, options.swaps)
        arguments = ("--volume", str(volume), "--run", RUN, "--dtype", options.dtype)
        with ServiceChild(*arguments) as (process, address):
            record = asyncio.run(drive(process, address, volume, staged, options))
    row = summary(record, options.streams)
    print_table(row)
    print(json.dumps({"benchmark": "swap", **machine(), "options": vars(options), **row}))


def prepare(volume: Path, source: str | None, swaps: int) -> list[Path]:
    """Publish step 0, and lay out the others out of sight; they share the files of weights."""
    if source is None:
        config = dataclasses.replace(load_recipe("tiny").model, vocab_size=256)
        decoder = Decoder(config)
        initialize(decoder, seed=0)
        weights, tokenizer = dict(decoder.state_dict()), byte_tokenizer()
    else:
        foreign = read_source(source)
        config, weights, tokenizer = foreign.config, dict(foreign.weights), foreign.tokenizer
    # Without an end token every stream has the length that was asked for.
    endless = Tokenizer(tokenizer.backend, bos_token_id=tokenizer.bos_token_id, eos_token_ids=[])
    details = StepDetails(
        model_config=config,
        tokenizer_fingerprint=endless.fingerprint,
        progress=Progress(micro_step=0, optimizer_step=0, tokens_seen=0),
    )
    with RunLock(volume / RUN):
        first = publish(volume / RUN, 0, model_files(weights, config, endless), details)
    return [stage(volume, first, number) for number in range(1, swaps + 1)]


def byte_tokenizer() -> Tokenizer:
    """A token a byte."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({letter: n for n, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend, bos_token_id=None, eos_token_ids=[])


def stage(volume: Path, first: Step, number: int) -> Path:
    """The first step under another number: other provenance, the same bytes."""
    staged = volume / ".staged" / step_name(number)
    staged.mkdir(parents=True)
    for name in first.manifest.files:
        os.link(first.path / name, staged / name)
    manifest = dataclasses.replace(first.manifest, step=number)
    (staged / "manifest.json").write_text(manifest.to_json(), "utf-8")
    return staged


class ServiceChild:
    """``python -m service`` as a child, ready."""

    def __init__(self, *arguments: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._address = f"http://127.0.0.1:{port}"
        self._command = [
            *(sys.executable, "-m", "service", "--port", str(port), "--log-level", "warning"),
            *arguments,
        ]

    def __enter__(self) -> tuple[psutil.Process, str]:
        self._process = subprocess.Popen(self._command)
        while True:
            assert self._process.poll() is None, "the service ended"
            try:
                if httpx.get(f"{self._address}/readyz").is_success:
                    return psutil.Process(self._process.pid), self._address
            except httpx.TransportError:
                pass
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


async def drive(
    process: psutil.Process,
    address: str,
    volume: Path,
    staged: Sequence[Path],
    options: argparse.Namespace,
) -> Record:
    """Keep all clients busy while step after step appears."""
    record = Record()
    limits = httpx.Limits(max_connections=options.streams + 4)
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
        clients = [
            asyncio.create_task(keep_streaming(client, record, number, options.tokens))
            for number in range(options.streams)
        ]
        watch = asyncio.create_task(watch_memory(process, record))
        await wait_for_end(record, options.streams)  # every client has warmed up
        record.began = time.perf_counter()
        await asyncio.sleep(options.before)
        for path in staged:
            await swap(client, record, volume, path)
        for task in (*clients, watch):
            task.cancel()
        await asyncio.gather(*clients, watch, return_exceptions=True)
    return record


async def keep_streaming(
    client: httpx.AsyncClient, record: Record, number: int, tokens: int
) -> None:
    """One client: stream after stream."""
    for turn in range(sys.maxsize):
        body = {
            "prompt": f"Client {number} asks for the {turn}th time: what comes after {turn}?",
            "max_new_tokens": tokens,
            "seed": 1000 * turn + number,
            "temperature": 0.8,
            "stream": True,
        }
        record.started[number] = time.perf_counter()
        try:
            async with client.stream("POST", "/generate", json=body) as response:
                await read(response, record, tokens)
        except httpx.HTTPError as error:
            record.failures.append(repr(error))


async def read(response: httpx.Response, record: Record, tokens: int) -> None:
    """Read one stream; every token but the first has a gap."""
    last = None
    count = 0
    final = None
    async for line in response.aiter_lines():
        if line.startswith('data: {"token_id"'):
            now = time.perf_counter()
            count += 1
            if last is not None:
                record.tokens.append((now, now - last))
            last = now
        elif line.startswith("data: {"):
            final = json.loads(line.removeprefix("data: "))
    if final is None or "checkpoint" not in final or count != tokens:
        record.failures.append(f"status {response.status_code}, {count} tokens: {final}")
        return
    record.ends.append((time.perf_counter(), final["checkpoint"]["name"], count))


async def swap(client: httpx.AsyncClient, record: Record, volume: Path, path: Path) -> None:
    """Let a step appear; wait until it serves, the old one has drained and memory has settled."""
    loaded = await load_seconds(client)
    one = Swap(f"{RUN}@{int(path.name.removeprefix('step-'))}", time.perf_counter())
    path.rename(volume / RUN / path.name)
    while (await client.get("/readyz")).json()["checkpoint"] != one.name:
        await asyncio.sleep(0.02)
    one.flipped = time.perf_counter()
    one.opened = one.flipped - (await load_seconds(client) - loaded)
    while any(began < one.flipped for began in record.started.values()):
        await asyncio.sleep(0.02)
    one.drained = max(end for end, name, _ in record.ends if name != one.name)
    await asyncio.sleep(max(0.0, one.drained + SETTLE_S - time.perf_counter()))
    one.settled = time.perf_counter()
    record.swaps.append(one)


async def load_seconds(client: httpx.AsyncClient) -> float:
    """Seconds that loading has taken so far."""
    return await metric(client, "nestling_checkpoint_load_seconds_sum")


async def metric(client: httpx.AsyncClient, name: str) -> float:
    """One number of ``/metrics``."""
    for line in (await client.get("/metrics")).text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise AssertionError(name)


async def wait_for_end(record: Record, count: int) -> None:
    """Wait for so many streams."""
    while len(record.ends) < count:
        assert not record.failures, record.failures
        await asyncio.sleep(0.1)


async def watch_memory(process: psutil.Process, record: Record) -> None:
    """Note the resident size ten times a second."""
    while True:
        record.memory.append((time.perf_counter(), process.memory_info().rss))
        await asyncio.sleep(0.1)


def phase_of(record: Record, at: float) -> str | None:
    """In which phase a moment was; ``None`` between a step's appearing and its being opened."""
    if not record.swaps or at < record.began:
        return None
    if at < record.swaps[0].published:
        return "before"
    swaps = [one for one in record.swaps if one.published <= at]
    one = swaps[-1]
    if at < one.opened:
        return None
    return "load" if at < one.flipped else "overlap" if at < one.drained else "after"


def summary(record: Record, streams: int) -> dict[str, object]:
    """Latencies by phase, each against before; memory against before; what failed."""
    gaps: dict[str, list[float]] = {phase: [] for phase in PHASES}
    for at, gap in record.tokens:
        phase = phase_of(record, at)
        if phase is not None:
            gaps[phase].append(1000 * gap)
    base = percentile(gaps["before"], 99)
    row: dict[str, object] = {"streams": streams, "failures": len(record.failures)}
    for phase, values in gaps.items():
        row[f"{phase}_p50_ms"] = round(percentile(values, 50), 1)
        row[f"{phase}_p99_ms"] = round(percentile(values, 99), 1)
        row[f"{phase}_max_ms"] = round(max(values, default=math.nan), 1)
        row[f"{phase}_p99_ratio"] = round(percentile(values, 99) / base, 2)
        row[f"{phase}_tokens"] = len(values)
    row["notice_s"] = [round(one.opened - one.published, 2) for one in record.swaps]
    row["load_s"] = [round(one.flipped - one.opened, 2) for one in record.swaps]
    row["overlap_s"] = [round(one.drained - one.flipped, 2) for one in record.swaps]
    one_model = statistics.median(within(record, record.began, record.swaps[0].published))
    row["rss_one_model_mb"] = round(one_model / 1e6)
    row["rss_peak_ratio"] = round(max(rss for _, rss in record.memory) / one_model, 2)
    row["rss_settled_ratio"] = [
        round(within(record, one.drained, one.settled)[-1] / one_model, 3) for one in record.swaps
    ]
    return row


def within(record: Record, start: float, end: float) -> list[int]:
    """Resident sizes in a time."""
    return [rss for at, rss in record.memory if start <= at <= end]


def percentile(values: Sequence[float], percent: int) -> float:
    """A percentile, NaN of nothing."""
    if len(values) < 2:
        return math.nan
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def print_table(row: dict[str, object]) -> None:
    """Phases for people, then the rest."""
    columns = ("p50_ms", "p99_ms", "max_ms", "p99_ratio", "tokens")
    print("| phase | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for phase in PHASES:
        print(f"| {phase} | " + " | ".join(str(row[f"{phase}_{c}"]) for c in columns) + " |")
    for name, value in row.items():
        if not name.endswith(columns):
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
