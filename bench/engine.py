"""How fast the engine alone is: decode rate by number of streams, and time to first token.

Greedy, end tokens ignored, random distinct prompts of 128 tokens, 128 new tokens; medians over
repeats after one warm-up, with the spread. Weights are random unless ``--weights`` names a
Hugging Face directory: speed does not depend on their values, perplexity would.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import psutil
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from bench.machine import machine
from lm.decoder import Decoder, decoder_from_weights
from lm.foreign.directory import read_directory
from lm.initialize import initialize
from lm.sampling import SamplingParams
from lm.tokenizer import Tokenizer
from service.engine.cache import SlotCache
from service.engine.engine import Engine
from service.engine.request import GenerationRequest, TokenGenerated
from service.engine.runner import Runner
from trainer.recipes import load_recipe

PROMPT_TOKENS = 128
NEW_TOKENS = 128
STREAMS = (1, 8, 32)
TTFT_TOKENS = (512, 1024)


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="Hugging Face directory; else random weights")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = [measure(options.weights, dtype, options.repeats) for dtype in options.dtypes]
    print_table(rows)
    print(json.dumps({"benchmark": "engine", **machine(), "rows": rows}))


def measure(weights: Path | None, dtype: str, repeats: int) -> dict[str, object]:
    """One precision's row."""
    decoder = load(weights, getattr(torch, dtype))
    row: dict[str, object] = {"precision": dtype}
    for streams in STREAMS:
        rates = [decode_rate(decoder, streams, seed) for seed in range(repeats)]
        row[f"decode_{streams}"] = median([decode for decode, _ in rates])
        row[f"decode_{streams}_spread"] = spread([decode for decode, _ in rates])
        row[f"e2e_{streams}"] = median([whole for _, whole in rates])
    for length in TTFT_TOKENS:
        times = [1000 * first_token_s(decoder, length, seed) for seed in range(repeats)]
        row[f"ttft_{length}_ms"] = median(times)
        row[f"ttft_{length}_ms_spread"] = spread(times)
    row["rss_gb"] = round(psutil.Process().memory_info().rss / 1e9, 2)
    return row


def load(weights: Path | None, dtype: torch.dtype) -> Decoder:
    """A decoder of the SmolLM2-135M shape, or of a directory's."""
    if weights is None:
        decoder = Decoder(load_recipe("smollm2-135m").model)
        initialize(decoder, seed=0)
    else:
        foreign = read_directory(weights)
        decoder = decoder_from_weights(foreign.config, foreign.weights)
    return decoder.to(dtype)


def make_engine(decoder: Decoder, streams: int, tokens: int) -> Engine:
    """An engine with room for so many streams."""
    cache = SlotCache(
        decoder.config,
        num_slots=streams,
        max_tokens=tokens,
        dtype=decoder.lm_head.weight.dtype,
        device=decoder.lm_head.weight.device,
    )
    engine = Engine(
        Runner(decoder, cache),
        silent_tokenizer(),
        max_step_tokens=max(256, streams + 1),
        reuse_prefixes=False,
        speculation=False,
    )
    engine.warm_up()
    return engine


def silent_tokenizer() -> Tokenizer:
    """A tokenizer without end tokens: generation runs to its limit."""
    backend = Backend(models.BPE())
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend, bos_token_id=None, eos_token_ids=[])


def submit(engine: Engine, streams: int, length: int, new_tokens: int, seed: int) -> None:
    """Queue random distinct prompts."""
    rng = random.Random(seed)
    for stream in range(streams):
        engine.submit(
            GenerationRequest(
                request_id=str(stream),
                prompt_ids=tuple(rng.randrange(1000) for _ in range(length)),
                max_new_tokens=new_tokens,
                sampling=SamplingParams(temperature=0.0),
            )
        )


def decode_rate(decoder: Decoder, streams: int, seed: int) -> tuple[float, float]:
    """Tokens a second of all streams: while all decode, and end to end with their prompts."""
    engine = make_engine(decoder, streams, PROMPT_TOKENS + NEW_TOKENS)
    submit(engine, streams, PROMPT_TOKENS, NEW_TOKENS, seed)
    began = time.perf_counter()
    all_decoding = None
    tokens_before = tokens = 0
    while not engine.is_idle:
        tokens += sum(isinstance(event, TokenGenerated) for event in engine.step())
        if all_decoding is None and engine.stats().num_tokens == streams:
            all_decoding, tokens_before = time.perf_counter(), tokens
    ended = time.perf_counter()
    assert all_decoding is not None
    return (tokens - tokens_before) / (ended - all_decoding), tokens / (ended - began)


def first_token_s(decoder: Decoder, length: int, seed: int) -> float:
    """Seconds from submitting one prompt until its first token."""
    engine = make_engine(decoder, 1, length + 1)
    submit(engine, 1, length, 1, seed)
    began = time.perf_counter()
    while not engine.is_idle:
        engine.step()
    return time.perf_counter() - began


def median(values: list[float]) -> float:
    """Median, to a tenth."""
    return round(statistics.median(values), 1)


def spread(values: list[float]) -> list[float]:
    """Smallest and largest, to a tenth."""
    return [round(min(values), 1), round(max(values), 1)]


def print_table(rows: list[dict[str, object]]) -> None:
    """Rows for people."""
    names = [name for name in rows[0] if not name.endswith("_spread")]
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(str(row[name]) for name in names) + " |")


if __name__ == "__main__":
    main()
