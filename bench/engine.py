"""How fast the engine alone is: decode rate by number of streams, and time to first token.

Greedy, end tokens ignored, random distinct prompts of 128 tokens, 128 new tokens; medians over
repeats after one warm-up. Each precision has a process of its own, so that memory is its own. The
last line is JSON. Weights are random unless ``--weights`` names a Hugging Face directory; with
those each row has its perplexity on held-out plays, through the engine itself.
"""

import argparse
import json
import math
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers import decoders, models

from bench.machine import machine
from lm.huggingface.config import from_hf
from lm.huggingface.directory import WEIGHTS_FILE, read_directory
from lm.huggingface.model import read_json
from lm.model.config import ModelConfig
from lm.model.decoder import Decoder, decoder_from_weights
from lm.model.device import pick_device
from lm.model.initialize import initialize
from lm.safetensors_file import Piece, read_weights
from lm.sampling import SamplingParams
from lm.text.tokenizer import Tokenizer
from service.engine.engine import Engine
from service.engine.native.runner import NativeRunner
from service.engine.pytorch.runner import StepRunner
from service.engine.request import GenerationRequest, TokenGenerated
from service.models.kernels.backend import Backend, BackendOptions, Choice
from service.observe.memory import trim
from trainer.data.corpora.shakespeare import find_plays, plain_text
from trainer.recipe.recipes import load_recipe

PROMPT_TOKENS = 128
NEW_TOKENS = 128
WARM_UP_TOKENS = 32
"""Each stream must still run when the last prompt has been computed."""
STREAMS = (1, 8, 32)
TTFT_TOKENS = (512, 1024)
MAX_TOKENS = 1056
STEP_TOKENS = 256
HELD_OUT_PLAYS = ("macbeth", "twelfth-night")
"""Their first scenes; nothing that a recipe of ours trains on."""
TEXT_CHARACTERS = 24_000
WINDOW = 512
ROWS_AT_ONCE = 16
"""Of logits, whose log-softmax then stays in a core's cache."""
ROWS = ("bfloat16", "int8", "int4", "torch:bfloat16")


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="Hugging Face directory; else random weights")
    parser.add_argument(
        "--rows", nargs="+", default=ROWS, help="precisions; torch: before one leaves kernels out"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=2, help="of each figure (default: 2)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options)))
        return
    rows = [in_process(options, row) for row in options.rows]
    print_table(rows)
    print(json.dumps({"benchmark": "engine", **machine(), "rows": rows}))


def in_process(options: argparse.Namespace, row: str) -> dict[str, object]:
    """One precision's row, measured by a process of its own."""
    command = [sys.executable, "-m", "bench.engine", "--one", row]
    is_slow = row.startswith("torch:") and options.device == "cpu"
    command += ["--repeats", str(1 if is_slow else options.repeats), "--device", options.device]
    if options.threads is not None:
        command += ["--threads", str(options.threads)]
    if options.weights is not None:
        command += ["--weights", str(options.weights)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure(options: argparse.Namespace) -> dict[str, object]:
    """One precision's row."""
    weights, repeats, began = options.weights, options.repeats, time.perf_counter()
    runner, choice = make_runner(weights, options.one, options.threads, options.device)
    values: dict[str, object] = {
        "precision": choice.precision,
        "backend": choice.name,
        "load_s": round(time.perf_counter() - began, 2),
    }
    profiles = {}
    for streams in STREAMS:
        decode_rate(runner, streams, seed=99, new_tokens=WARM_UP_TOKENS)
        before = profile(runner)
        rates = [decode_rate(runner, streams, seed) for seed in range(repeats)]
        profiles[f"e2e_{streams}"] = difference(before, profile(runner), repeats)
        values[f"decode_{streams}"] = median([decode for decode, _ in rates])
        values[f"e2e_{streams}"] = median([whole for _, whole in rates])
    for length in TTFT_TOKENS:
        before = profile(runner)
        times = [1000 * first_token_s(runner, length, seed) for seed in range(repeats)]
        profiles[f"ttft_{length}"] = difference(before, profile(runner), repeats)
        values[f"ttft_{length}_ms"] = median(times)
    trim()
    values["rss_gb"] = round(psutil.Process().memory_info().rss / 1e9, 2)
    values["gpu_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)  # 0 on a CPU
    values["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
    values["perplexity"] = None if weights is None else perplexity(runner, weights)
    values["profile_ms"] = profiles
    return values


def load(weights: Path | None, dtype: torch.dtype) -> Decoder:
    """A decoder of the SmolLM2-135M shape, or of a directory's."""
    if weights is None:
        decoder = Decoder(load_recipe("smollm2-135m").model)
        initialize(decoder, seed=0)
    else:
        foreign = read_directory(weights)
        decoder = decoder_from_weights(foreign.config, foreign.weights)
    return decoder.requires_grad_(requires_grad=False).to(dtype)


def make_runner(
    weights: Path | None, row: str, threads: int | None, device: str = "cpu"
) -> tuple[StepRunner, Choice]:
    """A runner as the service would make it for these settings."""
    name, dtype = row.split(":") if ":" in row else ("native", row)
    options = BackendOptions(
        device=pick_device(device),
        dtype=dtype,
        backend=name,
        threads=threads,
        num_slots=max(STREAMS),
        max_step_tokens=STEP_TOKENS,
    )
    backend = Backend(options)
    config = model_config(weights)
    choice = backend.choose(config)
    pieces = weight_pieces(weights, choice.load_dtype)
    return backend.runner(config, pieces, choice, MAX_TOKENS), choice


def model_config(weights: Path | None) -> ModelConfig:
    """SmolLM2-135M's, or that of a directory."""
    if weights is None:
        return load_recipe("smollm2-135m").model
    return from_hf(read_json(weights / "config.json"))


def weight_pieces(weights: Path | None, dtype: torch.dtype) -> Iterator[Piece]:
    """Weights as the service's loader would read them, where they are in one file."""
    if weights is not None and (weights / WEIGHTS_FILE).is_file():
        path = weights / WEIGHTS_FILE
        with path.open("rb") as file:
            yield from read_weights(file, path.stat().st_size, dtype=dtype)
        return
    for name, tensor in load(weights, dtype).state_dict().items():
        yield Piece(name, tuple(tensor.shape), 0, tensor)


def make_engine(runner: StepRunner) -> Engine:
    """An engine that computes every token of every prompt, one a step afterwards."""
    return Engine(
        runner,
        silent_tokenizer(),
        max_step_tokens=STEP_TOKENS,
        reuse_prefixes=False,
        speculation=False,
    )


def silent_tokenizer() -> Tokenizer:
    """A tokenizer without end tokens: generation runs to its limit."""
    backend = BackendTokenizer(models.BPE())
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


def decode_rate(
    runner: StepRunner, streams: int, seed: int, new_tokens: int = NEW_TOKENS
) -> tuple[float, float]:
    """Tokens a second of all streams: while all decode, and end to end with their prompts."""
    engine = make_engine(runner)
    submit(engine, streams, PROMPT_TOKENS, new_tokens, seed)
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


def first_token_s(runner: StepRunner, length: int, seed: int) -> float:
    """Seconds from submitting one prompt until its first token."""
    engine = make_engine(runner)
    submit(engine, 1, length, 1, seed)
    began = time.perf_counter()
    while not engine.is_idle:
        engine.step()
    return time.perf_counter() - began


def perplexity(runner: StepRunner, weights: Path) -> float:
    """Of the held-out plays, in windows of their own, through the engine's own step."""
    tokenizer = Tokenizer.load(weights)
    plays = find_plays()
    text = "".join(
        plain_text(plays[name].read_text("utf-8"))[:TEXT_CHARACTERS] for name in HELD_OUT_PLAYS
    )
    token_ids = tokenizer.encode(text)
    nats, count = 0.0, 0
    for start in range(0, len(token_ids) - 1, WINDOW):
        window = token_ids[start : start + WINDOW]
        logits, targets = runner.score(window)[:-1].split(ROWS_AT_ONCE), torch.tensor(window[1:])
        for rows, wanted in zip(logits, targets.split(ROWS_AT_ONCE), strict=True):
            nats += F.cross_entropy(rows.float().cpu(), wanted, reduction="sum").item()
        count += len(window) - 1
    return round(math.exp(nats / count), 3)


def profile(runner: StepRunner) -> dict[str, float]:
    """Seconds by part of the step so far; nothing for PyTorch."""
    return runner.profile() if isinstance(runner, NativeRunner) else {}


def difference(before: dict[str, float], after: dict[str, float], repeats: int) -> dict[str, float]:
    """Milliseconds by part of one repeat."""
    return {part: round(1000 * (after[part] - before[part]) / repeats, 1) for part in after}


def median(values: list[float]) -> float:
    """Median, to a tenth."""
    return round(statistics.median(values), 1)


def print_table(rows: list[dict[str, object]]) -> None:
    """Rows for people."""
    names = [name for name in rows[0] if name != "profile_ms"]
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(str(row[name]) for name in names) + " |")


if __name__ == "__main__":
    main()
