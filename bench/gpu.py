"""How fast the engine is on a GPU, and whether what it computes there is right.

SmolLM2-135M's shape (random weights unless ``--weights``), bfloat16. First the fused kernels are
compared with the definition; then the protocol of ``bench.engine``: greedy, random distinct prompts
of 128 tokens, 128 new tokens each, end tokens ignored, by 1 to 256 streams; the same drawn; the
time to a first token; guesses on prompts that copy themselves, with and without, in turns. Medians
with the spread of the repeats, warm-up apart. Prints tables and, last, one JSON line.
"""

import argparse
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.gpu_exactness import check
from bench.gpu_load import MAX_TOKENS, SAMPLING, STEP_TOKENS, make_engine, prompts, submit
from bench.gpu_model import smollm2, weights_of
from bench.machine import machine
from lm.sampling import SamplingParams
from service.engine.gpu.layout import FlatChunk, lay_out
from service.engine.gpu.placing import FusedModels
from service.engine.gpu.runner import GpuRunner
from service.engine.overlapped import OverlappedEngine
from service.engine.phase_timer import Profile
from service.engine.request import TokenGenerated
from service.models.kernels.gpu_choices import choices_on_disk

STREAMS = (1, 8, 32, 128, 256)
PROMPT_TOKENS = NEW_TOKENS = 128
TTFT_TOKENS = (512, 1024)


def main() -> None:
    """Check, measure, print tables and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="Hugging Face directory; else random weights")
    parser.add_argument(
        "--measure", action="store_true", help="measure which kernels are the fastest, as a service"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench.gpu: PyTorch sees no CUDA device")
    config = smollm2()
    began = time.perf_counter()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    models = FusedModels(
        torch.device("cuda"),
        num_slots=256,
        max_step_tokens=STEP_TOKENS,
        choose=choices_on_disk() if options.measure else None,
    )
    runner = models.runner(config, weights_of(options.weights, config), MAX_TOKENS)
    torch.cuda.synchronize()
    result: dict[str, Any] = {
        "load_s": round(time.perf_counter() - began, 2),
        "slots": runner.cache.num_slots,
    }
    began = time.perf_counter()
    del runner
    runner = models.runner(config, weights_of(options.weights, config), MAX_TOKENS)
    torch.cuda.synchronize()
    result["load_into_idle_set_s"] = round(time.perf_counter() - began, 2)
    print(result, flush=True)
    faults = []
    for part in options.only:
        began = time.perf_counter()
        try:
            result[part] = PARTS[part](runner, options)
        except AssertionError as error:  # the other figures are worth having all the same
            faults.append(f"{part}: {error}")
        print(f"[{part}: {time.perf_counter() - began:.1f} s]", flush=True)
    result["gpu_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    card = torch.cuda.get_device_name()
    print(json.dumps({"benchmark": "gpu", **machine(), "card": card, **result, "faults": faults}))
    if faults:
        sys.exit("bench.gpu: " + "; ".join(faults))


@torch.inference_mode()
def steps(runner: GpuRunner, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of the recorded steps by themselves, no host in between."""
    del options
    weight_set = runner.weight_set
    times: dict[str, float] = {}
    for rows, tokens, step in weight_set.decodes:
        arrays = step.inputs.begin()
        arrays["positions"][:] = PROMPT_TOKENS + NEW_TOKENS // 2
        arrays["token_ids"][:] = 5
        arrays["slots"][:] = range(rows)
        arrays["temperatures"][:] = 0.8
        arrays["top_k"][:] = 50
        arrays["top_p"][:] = 0.95
        arrays["uniforms"][:] = 0.5
        step.inputs.send()
        times[f"decode {rows} up to {tokens}"] = replay_ms(step.forward)
        for variant, replay in step.drawing.replays.items():
            if rows in (1, 32, 256) and tokens == MAX_TOKENS:
                times[f"draw {rows} {variant.value}"] = replay_ms(replay)
    for bucket, flat in weight_set.flats.items():
        flat.replay(lay_out([FlatChunk(0, 0, [5] * bucket.rows, 1)], bucket))
        times[f"flat {bucket.rows}"] = replay_ms(flat.forward)
    print("| step | ms |\n|---|---|")
    for name, value in times.items():
        print(f"| {name} | {value} |")
    return times


def replay_ms(replay: Callable[[], None], count: int = 50) -> float:
    """Milliseconds of one replay among many."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(5):
        replay()
    start.record()
    for _ in range(count):
        replay()
    end.record()
    torch.cuda.synchronize()
    return round(start.elapsed_time(end) / count, 4)


def rates(runner: GpuRunner, options: argparse.Namespace) -> list[dict[str, object]]:
    """Tokens a second by way of drawing: while all streams decode, and end to end."""
    rows = []
    for name, sampling in SAMPLING.items():
        row: dict[str, object] = {"drawn": name}
        for streams in options.streams:
            pairs = [
                drive(make_engine(runner), streams, sampling, seed)
                for seed in range(options.repeats + 1)
            ][1:]
            row[f"decode_{streams}"] = median([decode for decode, _ in pairs])
            row[f"spread_{streams}"] = spread([decode for decode, _ in pairs])
            row[f"e2e_{streams}"] = median([whole for _, whole in pairs])
        rows.append(row)
        print(row, flush=True)
    return rows


def first_token(runner: GpuRunner, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds from a prompt to its first token."""
    row = {}
    for length in TTFT_TOKENS:
        times = [1000 * first_token_s(runner, length, n) for n in range(3 * options.repeats + 2)][
            2:
        ]
        row[f"ttft_{length}_ms"] = round(statistics.median(times), 2)
    print(row, flush=True)
    return row


def profile(runner: GpuRunner, options: argparse.Namespace) -> dict[str, object]:
    """Where the host's time goes."""
    reports: dict[str, object] = {}
    for streams in options.streams:
        laps = Profile(time.perf_counter)
        engine = make_engine(runner, laps=laps)
        submit(engine, prompts(streams, PROMPT_TOKENS, 5), NEW_TOKENS, SAMPLING["greedy"])
        laps.lap("waiting")
        while not engine.is_idle:
            engine.step()
            laps.end(engine.stats())
        found: Any = laps.report()["steps"]
        reports[str(streams)] = found.get("one token a stream")
        print(streams, reports[str(streams)], flush=True)
    return reports


def guesses(runner: GpuRunner, options: argparse.Namespace) -> dict[str, object]:
    """Guesses against none, on prompts that repeat themselves and on random ones."""
    found: dict[str, object] = {}
    for streams in (1, 32):
        for kind in ("copying", "random"):
            asked = copying(streams) if kind == "copying" else prompts(streams, PROMPT_TOKENS, 3)
            pairs: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(options.repeats + 1):
                for speculation, values in pairs.items():
                    engine = make_engine(runner, speculation=speculation)
                    values.append(answer_s(engine, asked))
            without, with_them = (statistics.median(values[1:]) for values in pairs.values())
            found[f"{kind} {streams}"] = round(without / with_them, 3)
    print("guesses, times as fast:", found, flush=True)
    return found


def answer_s(engine: OverlappedEngine, asked: list[list[int]]) -> float:
    """Seconds until all prompts are answered."""
    submit(engine, asked, NEW_TOKENS, SAMPLING["greedy"])
    began = time.perf_counter()
    while not engine.is_idle:
        engine.step()
    return time.perf_counter() - began


def copying(streams: int) -> list[list[int]]:
    """Prompts of a short text again and again: a random model goes into a loop of its own."""
    return [[7 + stream, 8, 9, 10 + stream] * 32 for stream in range(streams)]


def drive(
    served: OverlappedEngine, streams: int, sampling: SamplingParams, seed: int
) -> tuple[float, float]:
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
    assert tokens == streams * NEW_TOKENS
    return (tokens - before) / (ended - all_decoding), tokens / (ended - began)


def first_token_s(runner: GpuRunner, length: int, seed: int) -> float:
    """Seconds from submitting one prompt until its first token."""
    engine = make_engine(runner)
    submit(engine, prompts(1, length, seed), 1, SAMPLING["greedy"])
    began = time.perf_counter()
    while not engine.is_idle:
        engine.step()
    return time.perf_counter() - began


def median(values: list[float]) -> float:
    """Median, to a tenth."""
    return round(statistics.median(values), 1)


def spread(values: list[float]) -> float:
    """Largest less smallest, as a share of the median."""
    return round((max(values) - min(values)) / statistics.median(values), 3)


PARTS: dict[str, Callable[[GpuRunner, argparse.Namespace], Any]] = {
    "check": check,
    "steps": steps,
    "first_token": first_token,
    "rates": rates,
    "profile": profile,
    "guesses": guesses,
}


if __name__ == "__main__":
    main()
