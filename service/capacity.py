"""``python -m service capacity``: memory and tokens a second by model and slots, computed.

Memory follows from a model's shape. Speed is a bound, not a measurement (``python -m bench.engine``
measures): a decode step reads all weights and the cache in use once, and computes every token, so
it takes at least as long as the slower of the two at the rates that this machine shows in a
second, or that are given.
"""

import argparse
import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from lm.model.config import ModelConfig
from service.engine.native.library import FORMATS
from service.engine.native.packing import pack_matrix
from service.models.catalog import Catalog
from service.models.kernels.native import NoKernels, open_library

COLUMNS = ("model", "parameters", "slots", "weights", "cache", "memory", "in a swap", "tokens/s")
WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 5 / 8}
"""A weight, scales and least values of groups included; those of outputs are too few to count."""
HEAD_BYTES = WEIGHT_BYTES | {"int4": WEIGHT_BYTES["int8"]}
"""Of embedding and head."""
MEASURE_S = 0.3
PROBE_BYTES = 1 << 28
PROBE_ROWS, PROBE_SIZE = 256, 1024


def _smollm2(hidden: int, inner: int, layers: int, heads: int, kv_heads: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=49152,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=8192,
    )


SHAPES = {
    "SmolLM2-135M": _smollm2(576, 1536, 30, 9, 3),
    "SmolLM2-360M": _smollm2(960, 2560, 32, 15, 5),
    "SmolLM2-1.7B": _smollm2(2048, 8192, 24, 32, 32),
}
"""Published shapes, to have something to compare with."""


def build_parser() -> argparse.ArgumentParser:
    """Options of ``capacity``."""
    parser = argparse.ArgumentParser(
        prog="python -m service capacity", description="Compute what models need and can give."
    )
    parser.add_argument("--slots", default="1,8,32", help="with commas (default: 1,8,32)")
    parser.add_argument("--tokens", type=int, default=2048, help="of a slot (default: 2048)")
    parser.add_argument(
        "--dtype", choices=tuple(WEIGHT_BYTES), default="int8", help="of weights (default: int8)"
    )
    parser.add_argument("--volume", type=Path, metavar="DIR", help="its runs' models, too")
    parser.add_argument(
        "--bandwidth", type=float, metavar="GB/S", help="of memory; by default measured now"
    )
    parser.add_argument(
        "--gflops", type=float, metavar="GFLOP/S", help="of products; by default measured now"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; raises ``ValueError`` in one line for what makes no sense."""
    call = build_parser().parse_args(arguments)
    slots = [int(text) for text in call.slots.split(",")]
    if min(slots) < 1 or call.tokens < 1:
        raise ValueError("--slots and --tokens must be positive")
    models = dict(SHAPES) | ({} if call.volume is None else on_volume(call.volume))
    bandwidth = 1e9 * call.bandwidth if call.bandwidth else measured_bandwidth()
    flops = 1e9 * call.gflops if call.gflops else measured_flops(call.dtype)
    rows = [COLUMNS, *table(models, slots, call.tokens, call.dtype, bandwidth, flops)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells) + "\n")
    sys.stdout.write(
        f"{call.dtype}, {call.tokens} tokens a slot; tokens/s at most, slots half full, at "
        f"{bandwidth / 1e9:.1f} GB/s and {flops / 1e9:,.0f} GFLOP/s\n"
    )
    return 0


def table(
    models: Mapping[str, ModelConfig],
    slots: Sequence[int],
    tokens: int,
    dtype: str,
    bandwidth: float,
    flops: float,
) -> Iterator[tuple[str, ...]]:
    """One row a model and number of slots, as text."""
    for name, config in models.items():
        weights = weight_bytes(config, dtype)
        for count in slots:
            length = min(tokens, config.max_position_embeddings)
            cache = count * length * cache_bytes_per_token(config, dtype)
            speed = tokens_per_second(config, count, length // 2, dtype, bandwidth, flops)
            sizes = (weights, cache, weights + cache, 2 * (weights + cache))
            texts = [f"{size / 2**30:.2f} GiB" for size in sizes]
            yield (name, f"{config.num_parameters:,}", str(count), *texts, f"{speed:,.0f}")


def tokens_per_second(
    config: ModelConfig,
    slots: int,
    context: int,
    dtype: str,
    bandwidth: float,
    flops: float,
) -> float:
    """A bound on tokens a second of full batches whose sequences have ``context`` tokens.

    ``bandwidth`` in bytes, ``flops`` in operations a second. Forward alone is a third of training.
    """
    read = weight_bytes(config, dtype)
    read += slots * context * cache_bytes_per_token(config, dtype)
    computed = slots * config.flops_per_token(context) / 3
    return slots / max(read / bandwidth, computed / flops)


def weight_bytes(config: ModelConfig, dtype: str) -> float:
    """Of a model in memory."""
    counts = config.parameter_counts()
    head = counts["embed_tokens"] + counts.get("lm_head", 0)
    return head * HEAD_BYTES[dtype] + (config.num_parameters - head) * WEIGHT_BYTES[dtype]


def cache_bytes_per_token(config: ModelConfig, dtype: str) -> int:
    """Keys and values are in 16 bits, also beside weights that take fewer."""
    return config.kv_bytes_per_token(4 if dtype == "float32" else 2)


def on_volume(volume: Path) -> dict[str, ModelConfig]:
    """Shapes of the newest step of each run; raises ``ValueError`` if there is none."""
    catalog = Catalog(volume)
    newest = [catalog.survey(run).steps[-1:] for run in catalog.runs()]
    found = {step.name: step.manifest.details.model_config for steps in newest for step in steps}
    if not found:
        raise ValueError(f"{volume} holds no checkpoint")
    return found


def measured_bandwidth() -> float:
    """Bytes a second that this machine's memory gives, read and written."""
    source = torch.zeros(PROBE_BYTES // 4)
    target = torch.empty_like(source)
    return 2 * PROBE_BYTES * _repeats_per_second(lambda: target.copy_(source))


def measured_flops(dtype: str) -> float:
    """Operations a second of large products, by the kernels where they are what would compute."""
    return 2 * PROBE_ROWS * PROBE_SIZE**2 * _repeats_per_second(_product(dtype))


def _product(dtype: str) -> Callable[[], object]:
    """Multiplies rows by a square matrix."""
    rows, square = torch.ones(PROBE_ROWS, PROBE_SIZE), torch.ones(PROBE_SIZE, PROBE_SIZE)
    if dtype in FORMATS:
        with contextlib.suppress(NoKernels):
            library = open_library()
            packed, out = pack_matrix(library, square, dtype), torch.empty_like(rows)
            return lambda: library.functions.nestling_multiply(
                library.pool,
                *(FORMATS[dtype], packed.data_ptr(), PROBE_SIZE, PROBE_SIZE),
                *(rows.data_ptr(), PROBE_ROWS, out.data_ptr()),
            )
    of = torch.float32 if dtype == "float32" else torch.bfloat16
    return functools.partial(torch.matmul, rows.to(of), square.to(of))


def _repeats_per_second(work: Callable[[], object]) -> float:
    work()
    repeats, began = 0, time.perf_counter()
    while time.perf_counter() < began + MEASURE_S:
        work()
        repeats += 1
    return repeats / (time.perf_counter() - began)
