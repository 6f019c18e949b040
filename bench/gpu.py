"""How fast the engine is on a GPU, and whether what it computes there is right.

SmolLM2-135M's shape (random weights unless ``--weights``), bfloat16. First the fused kernels are
compared with the definition; then the protocol of ``bench.engine``: greedy, random distinct prompts
of 128 tokens, 128 new tokens each, end tokens ignored, by 1 to 256 streams; the same drawn; the
time to a first token; guesses on prompts that copy themselves, with and without, in turns. Medians
with the spread of the repeats, warm-up apart. Prints tables and, last, one JSON line.
"""

import argparse
import dataclasses
import json
import logging
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.gpu_model import silent_tokenizer, smollm2, weights_of
from bench.machine import machine
from lm.sampling import SamplingParams
from service.engine.gpu.buffers.tensors import DecoderWeights, LayerWeights
from service.engine.gpu.definition import plain_logits
from service.engine.gpu.flat.layout import FlatChunk, lay_out
from service.engine.gpu.placing import FusedModels
from service.engine.gpu.runner import GpuRunner
from service.engine.overlapped import OverlappedEngine
from service.engine.profile import Profile
from service.engine.request import GenerationRequest, TokenGenerated
from service.gpu_choices import choices_on_disk

STREAMS = (1, 8, 32, 128, 256)
PROMPT_TOKENS = NEW_TOKENS = 128
TTFT_TOKENS = (512, 1024)
MAX_TOKENS = 2048
STEP_TOKENS = 2048
SAMPLING = {
    "greedy": SamplingParams(temperature=0.0),
    "temperature 0.8": SamplingParams(temperature=0.8),
    "top-k 50, top-p 0.95": SamplingParams(temperature=0.8, top_p=0.95, top_k=50),
}
CLEARLY_WORSE = 0.3
"""Standard deviations of a token's logits: what is nearer to the likeliest may be rounding."""


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


def check(runner: GpuRunner, options: argparse.Namespace) -> dict[str, float]:
    """Largest distance of logits from the definition's in float32, as a share of the norm.

    The fused steps' must not be larger than that of the definition in bfloat16.
    """
    del options
    errors: dict[str, float] = {}
    rng = random.Random(0)
    exact = in_float32(runner._set.weights)  # noqa: SLF001
    for num_prompt, num_decoded in ((1, 4), (17, 20), (130, 8), (600, 4), (1500, 2)):
        token_ids = [
            rng.randrange(runner.config.vocab_size) for _ in range(num_prompt + num_decoded)
        ]
        on_device = torch.tensor(token_ids, device="cuda")
        with torch.inference_mode():
            wanted = plain_logits(runner.config, exact, on_device)[num_prompt - 1 :].cpu()
        plain = runner.score(token_ids)[num_prompt - 1 :].float().cpu()
        fused = runner.run_alone(token_ids, num_prompt).float().cpu()
        of_plain, of_fused = (
            ((got - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max().item()
            for got in (plain, fused)
        )
        same = (fused.argmax(-1) == wanted.argmax(-1)).float().mean().item()
        errors[f"fused {num_prompt}+{num_decoded}"] = round(of_fused, 5)
        errors[f"plain {num_prompt}+{num_decoded}"] = round(of_plain, 5)
        print(
            f"check {num_prompt} + {num_decoded}: fused {of_fused:.2%} from float32, PyTorch's "
            f"bfloat16 {of_plain:.2%}; same likeliest {same:.0%}",
            flush=True,
        )
        assert of_fused < 1.2 * of_plain, "the fused kernels are further off than bfloat16 is"
    errors |= {"greedy_misses": float(greedy_misses(runner))}
    return errors


def in_float32(weights: DecoderWeights) -> DecoderWeights:
    """The same weights in more bits."""
    layers = tuple(
        LayerWeights(**{name: tensor.float() for name, tensor in vars(layer).items()})
        for layer in weights.layers
    )
    return dataclasses.replace(
        weights,
        layers=layers,
        embedding=weights.embedding.float(),
        norm=weights.norm.float(),
        head=weights.head.float(),
    )


def greedy_misses(runner: GpuRunner) -> int:
    """Tokens of 20 greedy answers, batched, that the definition thinks clearly worse."""
    engine = make_engine(runner)
    lengths = [1 + 13 * number for number in range(20)]
    rng = random.Random(1)
    asked = [[rng.randrange(1000) for _ in range(length)] for length in lengths]
    answers: dict[str, list[int]] = {str(number): [] for number in range(20)}
    submit(engine, asked, 48, SAMPLING["greedy"])
    while not engine.is_idle:
        for event in engine.step():
            if isinstance(event, TokenGenerated):
                answers[event.request_id].append(event.token_id)
    misses = 0
    for number, prompt in enumerate(asked):
        answer = answers[str(number)]
        assert len(answer) == 48
        logits = runner.score([*prompt, *answer])[len(prompt) - 1 : -1].float()
        chosen = logits.gather(-1, torch.tensor(answer, device=logits.device)[:, None])[:, 0]
        behind = (logits.amax(-1) - chosen) / logits.std(-1)
        misses += int((behind > CLEARLY_WORSE).sum())
    print(f"greedy: {misses} of {20 * 48} tokens are clearly worse than the definition's")
    assert misses == 0
    return misses


@torch.inference_mode()
def steps(runner: GpuRunner, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of the recorded steps by themselves, no host in between."""
    del options
    weight_set = runner._set  # noqa: SLF001
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
        times[f"decode {rows} up to {tokens}"] = replay_ms(step._forward)  # noqa: SLF001
        for variant, replay in step.drawing._replays.items():  # noqa: SLF001
            if rows in (1, 32, 256) and tokens == MAX_TOKENS:
                times[f"draw {rows} {variant.value}"] = replay_ms(replay)
    for bucket, flat in weight_set.flats.items():
        flat.replay(lay_out([FlatChunk(0, 0, [5] * bucket.rows, 1)], bucket))
        times[f"flat {bucket.rows}"] = replay_ms(flat._forward)  # noqa: SLF001
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


def make_engine(
    runner: GpuRunner, *, speculation: bool = False, laps: Profile | None = None
) -> OverlappedEngine:
    """An engine that reuses no prefix."""
    return OverlappedEngine(
        runner,
        silent_tokenizer(),
        max_step_tokens=STEP_TOKENS,
        reuse_prefixes=False,
        speculation=speculation,
        laps=laps,
    )


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


def submit(
    served: OverlappedEngine, asked: list[list[int]], new_tokens: int, sampling: SamplingParams
) -> None:
    """Queue prompts."""
    for number, prompt in enumerate(asked):
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
