"""How smooth streams stay while prompts arrive: inter-token latency of eight decoding streams.

Three measurements over one engine's loop:

- one chunk: the longest step of a prompt of 1,024 tokens that has the engine to itself;
- alone: gaps between the tokens of eight streams, nobody else there;
- with newcomers: the same while a prompt of 1,024 tokens arrives every second.

The promise is that the second p99 exceeds the first by at most one chunk's time.
"""

import argparse
import itertools
import json
import random
import statistics
import time

from bench.engine import silent_tokenizer
from bench.machine import machine
from bench.open import Opener, add_options
from lm.sampling import SamplingParams
from service.engine.engine import Engine
from service.engine.request import GenerationRequest, TokenGenerated

STREAMS = 8
STREAM_PROMPT_TOKENS = 64
STREAM_TOKENS = 900
NEWCOMER_TOKENS = 1024
NEWCOMER_EVERY_S = 1.0
MAX_TOKENS = 1088


def main() -> None:
    """Measure, print a line for people and one of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--step-tokens", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    options = parser.parse_args()
    opener = Opener(options)
    chunk_ms = 1000 * max(step_times(make_engine(opener, options.step_tokens)))
    row: dict[str, object] = {"step_tokens": options.step_tokens, "chunk_ms": round(chunk_ms, 1)}
    p99 = {}
    for name, has_newcomers in (("alone", False), ("newcomers", True)):
        engine = make_engine(opener, options.step_tokens)
        gaps = [1000 * gap for gap in measure(engine, options.seconds, has_newcomers=has_newcomers)]
        percentiles = statistics.quantiles(gaps, n=100, method="inclusive")
        p99[name] = percentiles[98]
        row[f"{name}_p50_ms"] = round(percentiles[49], 1)
        row[f"{name}_p99_ms"] = round(percentiles[98], 1)
        row[f"{name}_max_ms"] = round(max(gaps), 1)
    row["p99_raised_by_chunks"] = round((p99["newcomers"] - p99["alone"]) / chunk_ms, 2)
    print(" ".join(f"{key}={value}" for key, value in row.items()))
    print(json.dumps({"benchmark": "smooth", **machine(), "runner": opener.name, **row}))


def make_engine(opener: Opener, step_tokens: int) -> Engine:
    """An engine with room for the streams and some newcomers, nothing shared or guessed."""
    runner = opener.runner(
        num_slots=2 * STREAMS, max_tokens=MAX_TOKENS, max_step_tokens=step_tokens
    )
    engine = Engine(
        runner,
        silent_tokenizer(),
        max_step_tokens=step_tokens,
        reuse_prefixes=False,
        speculation=False,
    )
    engine.warm_up()
    return engine


def step_times(engine: Engine) -> list[float]:
    """Seconds of each step of one newcomer alone, the second time that one comes."""
    times: list[float] = []
    for turn in range(2):
        times.clear()
        submit(engine, f"warm-{turn}", NEWCOMER_TOKENS, 1)
        while not engine.is_idle:
            began = time.perf_counter()
            engine.step()
            times.append(time.perf_counter() - began)
    return times


def measure(engine: Engine, seconds: float, *, has_newcomers: bool) -> list[float]:
    """Gaps between the tokens of each stream."""
    names = itertools.count()
    for stream in range(STREAMS):
        submit(engine, f"stream-{stream}-{next(names)}", STREAM_PROMPT_TOKENS, STREAM_TOKENS)
    while engine.stats().num_tokens != STREAMS:
        engine.step()
    last: dict[str, float] = {}
    gaps: list[float] = []
    began = time.perf_counter()
    due = began
    while (now := time.perf_counter()) - began < seconds:
        if has_newcomers and now >= due:
            submit(engine, f"newcomer-{next(names)}", NEWCOMER_TOKENS, 1)
            due += NEWCOMER_EVERY_S
        events = engine.step()
        now = time.perf_counter()
        for event in events:
            if not event.request_id.startswith("stream"):
                continue
            if isinstance(event, TokenGenerated):
                if event.request_id in last:
                    gaps.append(now - last[event.request_id])
                last[event.request_id] = now
            elif event.is_final:
                stream = event.request_id.rsplit("-", 1)[0]
                submit(engine, f"{stream}-{next(names)}", STREAM_PROMPT_TOKENS, STREAM_TOKENS)
    return gaps


def submit(engine: Engine, name: str, length: int, new_tokens: int) -> None:
    """Queue a random prompt."""
    rng = random.Random(name)
    engine.submit(
        GenerationRequest(
            request_id=name,
            prompt_ids=tuple(rng.randrange(1000) for _ in range(length)),
            max_new_tokens=new_tokens,
            sampling=SamplingParams(temperature=0.0),
        )
    )


if __name__ == "__main__":
    main()
