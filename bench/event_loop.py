"""How punctual the service's event loop is under load, by the interpreter's switch interval.

A service process over real weights and 32 clients that always stream; the lag is the service's own
``nestling_event_loop_lag_seconds``: the bucket that 99% of the wake-ups are within, and all.
"""

import argparse
import asyncio
import json
import math
import time

import httpx

from bench.machine import machine
from bench.swap import ServiceChild

METRIC = "nestling_event_loop_lag_seconds_bucket"
TOKENS = 128


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="Hugging Face directory")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--switch-intervals", nargs="+", default=["0.005", "0.0005", "0.0001"])
    options = parser.parse_args()
    rows = [
        {"switch_interval_s": interval, **measure(options, interval)}
        for interval in options.switch_intervals
    ]
    print("| " + " | ".join(rows[0]) + " |")
    print("|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")
    print(json.dumps({"benchmark": "event_loop", **machine(), "rows": rows}))


def measure(options: argparse.Namespace, switch_interval: str) -> dict[str, object]:
    """Lag and rate with one interval."""
    arguments = ("--model", options.model, "--switch-interval-s", switch_interval)
    with ServiceChild(*arguments) as (_, address):
        return asyncio.run(drive(address, options.streams, options.seconds))


async def drive(address: str, streams: int, seconds: float) -> dict[str, object]:
    """Keep all clients busy; compare the lags at the beginning and the end."""
    counts = [0] * streams
    limits = httpx.Limits(max_connections=streams + 4)
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
        clients = [asyncio.create_task(keep_streaming(client, counts, n)) for n in range(streams)]
        await asyncio.sleep(3.0)  # prompts are computed, everything is warm
        before, tokens, began = await buckets(client), sum(counts), time.perf_counter()
        await asyncio.sleep(seconds)
        after = await buckets(client)
        rate = (sum(counts) - tokens) / (time.perf_counter() - began)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    lags = {bound: after[bound] - before[bound] for bound in after}
    total = lags[math.inf]
    return {
        "wake_ups": int(total),
        "p50_ms_within": within(lags, 0.5 * total),
        "p99_ms_within": within(lags, 0.99 * total),
        "max_ms_within": within(lags, total),
        "late_over_5_ms": round(1 - lags[0.005] / total, 4),
        "tokens_per_s": round(rate),
    }


def within(lags: dict[float, float], count: float) -> float:
    """The smallest bound, in milliseconds, that so many lags are within."""
    return 1000 * min(bound for bound, number in lags.items() if number >= count)


async def buckets(client: httpx.AsyncClient) -> dict[float, float]:
    """Cumulative counts by upper bound."""
    text = (await client.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith(METRIC)]
    return {float(line.split('"')[1]): float(line.split()[-1]) for line in lines}


async def keep_streaming(client: httpx.AsyncClient, counts: list[int], number: int) -> None:
    """One client: stream after stream."""
    turn = 0
    while True:
        turn += 1
        body = {
            "prompt": f"Client {number} asks for the {turn}th time: what comes after {turn}?",
            "max_new_tokens": TOKENS,
            "seed": 1000 * turn + number,
            "stream": True,
        }
        async with client.stream("POST", "/generate", json=body) as response:
            async for line in response.aiter_lines():
                counts[number] += line.startswith('data: {"token_id"')


if __name__ == "__main__":
    main()
