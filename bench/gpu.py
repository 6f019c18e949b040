"""How fast the engine is on a GPU, beside transformers' ``generate`` over the same weights.

The protocol of ``bench.engine``: greedy, random distinct prompts of 128 tokens, 128 new tokens
each, 1, 8 and 32 streams, end tokens ignored; medians after one warm-up. transformers decodes each
batch with its static cache, as it comes and, with ``--compiled``, through ``torch.compile``. Ours
is also measured with drawn tokens and with larger steps for prompts. Prints a table and one JSON
line.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bench import engine
from bench.engine import MAX_TOKENS, NEW_TOKENS, PROMPT_TOKENS, STREAMS, TTFT_TOKENS
from bench.machine import machine
from lm.hf_config import to_hf
from lm.sampling import SamplingParams
from service.engine.engine import Engine
from service.engine.request import GenerationRequest, TokenGenerated
from service.engine.runner import StepRunner

STEPS_OF_TOKENS = (256, 2048)
SAMPLING = {
    "greedy": SamplingParams(temperature=0.0),
    "drawn": SamplingParams(temperature=0.8),
    "top_p": SamplingParams(temperature=0.8, top_p=0.95, top_k=50),
}


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="Hugging Face directory; else random weights")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compiled", action="store_true", help="also compile transformers'")
    options = parser.parse_args()
    rows = list(ours(options))
    rows += theirs(options, "transformers")
    if options.compiled:
        rows += theirs(options, "transformers, compiled")
    print("| side | " + " | ".join(name for name in rows[0] if name != "side") + " |")
    print("|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(str(row.get(name, "")) for name in rows[0]) + " |")
    card = torch.cuda.get_device_name() if options.device != "cpu" else "cpu"
    print(json.dumps({"benchmark": "gpu", **machine(), "card": card, "rows": rows}))


def ours(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """A row for each way of drawing and size of step."""
    began = time.perf_counter()
    runner, choice = engine.make_runner(options.weights, "torch:bfloat16", None, options.device)
    load_s = time.perf_counter() - began
    quality = None if options.weights is None else engine.perplexity(runner, options.weights)
    for name, sampling in SAMPLING.items():
        for step_tokens in STEPS_OF_TOKENS if name == "greedy" else STEPS_OF_TOKENS[-1:]:
            row: dict[str, object] = {"side": f"ours, {name}, steps of {step_tokens}"}
            row["precision"] = choice.precision
            for streams in STREAMS:
                rates = [
                    drive(make_engine(runner, step_tokens), streams, sampling, seed)
                    for seed in range(options.repeats + 1)
                ][1:]
                row[f"decode_{streams}"] = median([decode for decode, _ in rates])
                row[f"e2e_{streams}"] = median([whole for _, whole in rates])
            for length in TTFT_TOKENS:
                times = [
                    first_token_s(make_engine(runner, step_tokens), length, sampling)
                    for _ in range(options.repeats + 1)
                ][1:]
                row[f"ttft_{length}_ms"] = median([1000 * value for value in times])
            row["perplexity"] = quality
            row["load_s"] = round(load_s, 2)
            yield row
            print(row, file=sys.stderr, flush=True)


def make_engine(runner: StepRunner, step_tokens: int) -> Engine:
    """An engine that neither guesses nor reuses."""
    return Engine(
        runner,
        engine.silent_tokenizer(),
        max_step_tokens=step_tokens,
        reuse_prefixes=False,
        speculation=False,
    )


def drive(served: Engine, streams: int, sampling: SamplingParams, seed: int) -> tuple[float, float]:
    """Tokens a second of all streams: while all decode, and end to end."""
    submit(served, prompts(streams, PROMPT_TOKENS, seed), NEW_TOKENS, sampling)
    began, all_decoding = time.perf_counter(), None
    before = tokens = 0
    while not served.is_idle:
        tokens += sum(isinstance(event, TokenGenerated) for event in served.step())
        if all_decoding is None and served.stats().num_tokens == streams:
            all_decoding, before = time.perf_counter(), tokens
    ended = time.perf_counter()
    assert all_decoding is not None
    return (tokens - before) / (ended - all_decoding), tokens / (ended - began)


def first_token_s(served: Engine, length: int, sampling: SamplingParams) -> float:
    """Seconds from submitting one prompt until its first token."""
    submit(served, prompts(1, length, seed=length), 1, sampling)
    began = time.perf_counter()
    while not served.is_idle:
        served.step()
    return time.perf_counter() - began


def submit(
    served: Engine, token_ids: list[list[int]], new_tokens: int, sampling: SamplingParams
) -> None:
    """Queue prompts."""
    for number, prompt in enumerate(token_ids):
        served.submit(
            GenerationRequest(
                request_id=str(number),
                prompt_ids=tuple(prompt),
                max_new_tokens=new_tokens,
                sampling=sampling,
            )
        )


def prompts(streams: int, length: int, seed: int) -> list[list[int]]:
    """Random distinct prompts."""
    rng = random.Random(seed)
    return [[rng.randrange(1000) for _ in range(length)] for _ in range(streams)]


def theirs(options: argparse.Namespace, name: str) -> list[dict[str, object]]:
    """The row of transformers' ``generate``; its decode rate leaves the first token's time out."""
    model = their_model(options)
    row: dict[str, object] = {"side": name, "precision": "bfloat16"}

    def generate(streams: int, length: int, new_tokens: int, seed: int) -> None:
        token_ids = torch.tensor(prompts(streams, length, seed), device=options.device)
        model.generate(
            token_ids,
            attention_mask=torch.ones_like(token_ids),
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            cache_implementation="static",
            disable_compile=not name.endswith("compiled"),
            pad_token_id=0,
        )

    for streams in STREAMS:
        whole = timed(lambda n=streams: generate(n, PROMPT_TOKENS, NEW_TOKENS, 1), options.repeats)
        first = timed(lambda n=streams: generate(n, PROMPT_TOKENS, 1, 1), options.repeats)
        row[f"decode_{streams}"] = round(streams * (NEW_TOKENS - 1) / (whole - first), 1)
        row[f"e2e_{streams}"] = round(streams * NEW_TOKENS / whole, 1)
    for length in TTFT_TOKENS:
        seconds = timed(lambda n=length: generate(1, n, 1, 1), options.repeats)
        row[f"ttft_{length}_ms"] = round(1000 * seconds, 1)
    print(row, file=sys.stderr, flush=True)
    return [row]


def their_model(options: argparse.Namespace) -> Any:
    """A model of transformers with our weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    decoder = engine.load(options.weights, torch.bfloat16)
    config = LlamaConfig(
        **{**to_hf(decoder.config), "max_position_embeddings": max(MAX_TOKENS, 2048)},
        attn_implementation="sdpa",
        eos_token_id=None,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.load_state_dict(decoder.state_dict(), strict=False)
    model.generation_config.eos_token_id = None
    return model.to(options.device).eval()


def timed(compute: Callable[[], None], repeats: int) -> float:
    """Median of seconds, after a warm-up."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        compute()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def median(values: list[float]) -> float:
    """Median, to a tenth."""
    return round(statistics.median(values), 1)


if __name__ == "__main__":
    main()
