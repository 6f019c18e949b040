"""Measures which kernels make a decode step fastest on this card.

Candidates are few: they are compiled and timed when a model is loaded on a card for the first time.
"""

import dataclasses
import hashlib
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
import triton
from triton.errors import TritonError

from lm.model.config import ModelConfig
from service.engine.gpu.buffers.recorder import GraphRecorder
from service.engine.gpu.kernels.choices import (
    MAX_SUM_ROWS,
    PARTS,
    PROGRAMS,
    AttentionChoice,
    Choices,
    Part,
    ProductChoice,
    default_attention,
    default_choices,
    default_product,
    parts_choices,
    product_shape,
    sums,
    tiles_choices,
)
from service.engine.gpu.kernels.decode_step import DecodeStep
from service.engine.gpu.tensors import DecoderWeights, KeyValues, StepRows

CONTEXT = 256
"""Keys of every row while it is measured."""
WARM_UPS = 2
REPEATS = 5
REPLAYS = 4
FORMAT = 3
"""Of what the fastest kernels are; counted up with every change of the kernels."""
Timer = Callable[[Choices], float]
"""Seconds of a step with these choices; infinite where the card refuses one."""


def product_candidates(config: ModelConfig, rows: int, part: Part) -> list[ProductChoice]:
    """Kernels worth measuring for a product, the default first."""
    found = [default_product(config, rows, part)]
    tile = max(16, min(64, triton.next_power_of_2(rows)))
    wide = 64 if part == "head" else 32
    if rows <= MAX_SUM_ROWS:
        found.append(sums(config, rows, part))
    if rows <= 64:
        found += tiles_choices(config, rows, part)
        found += parts_choices(config, rows, part)[:2]
    if rows >= 32:
        found.append(ProductChoice("loop", rows=tile, outputs=wide, inner=64, stages=4))
    if rows >= 16:
        found.append(ProductChoice("cublas"))
    return list(dict.fromkeys(found))


def attention_candidates(config: ModelConfig, rows: int) -> list[AttentionChoice]:
    """Ways to attend worth measuring, the default first."""
    default = default_attention(config, rows)
    found = [default, dataclasses.replace(default, keys=64, warps=4, stages=3)]
    found += [
        dataclasses.replace(default, splits=splits, keys=keys, warps=warps)
        for splits, keys, warps in (
            (default.splits // 2, 64, 4),
            (default.splits // 2, 128, 4),
            (default.splits * 2, 64, 2),
        )
        if splits and splits * rows * config.num_key_value_heads <= 4 * PROGRAMS
    ]
    return list(dict.fromkeys(found))


def measure(config: ModelConfig, rows: int, timer: Timer) -> Choices:
    """The fastest choices for steps of so many rows, one part after the other.

    A choice is timed within a whole step: what a kernel costs depends on the one before it.
    """
    best = default_choices(config, rows)
    fastest = timer(best)
    candidates: dict[str, list[Any]] = {"attention": attention_candidates(config, rows)}
    candidates |= {part: product_candidates(config, rows, part) for part in PARTS}
    for part, found in candidates.items():
        for candidate in found[1:]:
            choices = dataclasses.replace(best, **{part: candidate})
            time = timer(choices)
            if time < fastest:
                best, fastest = choices, time
    return best


def step_timer(config: ModelConfig, weights: DecoderWeights, rows: int) -> Timer:
    """Times recorded steps over a cache of its own, which all layers share."""
    device, layers = weights.embedding.device, config.num_hidden_layers
    length = min(CONTEXT, config.max_position_embeddings)
    shape = (1, rows, config.num_key_value_heads, length, config.head_dim)
    key, value = (torch.zeros(shape, dtype=weights.embedding.dtype, device=device) for _ in "kv")
    slots = torch.arange(rows, dtype=torch.int32, device=device)
    step_rows = StepRows(
        token_ids=slots % config.vocab_size,
        positions=torch.full_like(slots, length - 1),
        slots=slots,
        last_tokens=torch.zeros_like(slots),
    )
    logits = torch.empty(rows, config.vocab_size, device=device)
    is_finite = torch.empty(rows, dtype=torch.int8, device=device)
    # Expanded, not copied: the memory beside a service's cache is enough for one layer.
    cache = KeyValues(
        key=key.expand(layers, -1, -1, -1, -1), value=value.expand(layers, -1, -1, -1, -1)
    )
    stream = torch.cuda.Stream(device)

    def time(choices: Choices) -> float:
        step = DecodeStep(config, weights, cache, step_rows, logits, is_finite, choices)
        try:
            return _time_recorded(step.compute, stream)
        except TritonError:  # more registers or shared memory than the card has
            return math.inf

    return time


def _time_recorded(compute: Callable[[], None], stream: torch.cuda.Stream) -> float:
    """Median seconds of a replay on a stream; other threads may use the device meanwhile."""
    replay = GraphRecorder(stream)(compute)
    times: list[float] = []
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            replay()
        for _ in range(REPEATS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(REPLAYS):
                replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3 / REPLAYS)
    return statistics.median(times)


def fingerprint(config: ModelConfig, weights: DecoderWeights, rows: int) -> str:
    """Of everything that the fastest kernels depend on: card, shape, rows, dtype, versions."""
    shape = [product_shape(config, part) for part in PARTS]
    heads = (config.num_attention_heads, config.num_key_value_heads, config.num_hidden_layers)
    card = torch.cuda.get_device_name(weights.embedding.device)
    versions = (torch.__version__, triton.__version__, FORMAT)
    known = repr((card, shape, heads, str(weights.embedding.dtype), rows, versions))
    return hashlib.sha256(known.encode()).hexdigest()[:16]
