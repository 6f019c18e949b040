"""How long a step of flat rows takes on a GPU, bucket by bucket, and how far it is from float32.

Random weights of SmolLM2-135M's shape in bfloat16; one prompt that fills the bucket, and guesses
of streams in the middle of their text. Steps are recorded as CUDA graphs and replayed; medians.
``--shapes`` tries shapes of the programs of attention, ``--profile`` lists kernels. On a CPU
(``TRITON_INTERPRET=1``, ``--toy --device cpu``) it only shows that it runs. Prints JSON lines.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch
import triton
from torch import Tensor

from bench.gpu_model import smollm2
from lm.model.attention import CausalAttention
from lm.model.config import ModelConfig
from lm.model.decoder import Decoder, decoder_from_weights
from service.engine.gpu.buffers.filling import fill, tensors_of
from service.engine.gpu.flat.guess_step import GuessStep
from service.engine.gpu.flat.head_step import HeadStep
from service.engine.gpu.flat.prefill_attention import ProgramShape
from service.engine.gpu.flat.prefill_step import PrefillStep
from service.engine.gpu.layout import BUCKETS, Bucket, FlatChunk, FlatLayout, lay_out
from service.engine.gpu.tensors import KeyValues, StepRows, empty_weights

SLOTS = 64
SMOLLM2 = smollm2()
TOY = dataclasses.replace(
    SMOLLM2, vocab_size=300, hidden_size=96, intermediate_size=64, num_hidden_layers=1,
    num_attention_heads=3, num_key_value_heads=1, max_position_embeddings=256,
)  # fmt: skip
GUESSES = ((1, 2), (1, 4), (1, 8), (8, 4), (8, 8), (32, 2), (32, 4))
"""(streams, width) of steps that verify guesses."""


def main() -> None:
    """Compare, then measure; one JSON line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--contexts", type=int, nargs="+", default=[192, 4000], metavar="TOKENS")
    parser.add_argument("--toy", action="store_true", help="a toy and the two smallest buckets")
    parser.add_argument("--shapes", action="store_true", help="try shapes of programs")
    parser.add_argument("--profile", action="store_true", help="list the kernels of 512 rows")
    options = parser.parse_args()
    buckets = BUCKETS[:2] if options.toy else BUCKETS
    bench = Bench(TOY if options.toy else SMOLLM2, torch.device(options.device))
    for kind in (PrefillStep, GuessStep):
        show(benchmark="gpu prefill", card=bench.card, kind=kind.__name__, **bench.errors(50, kind))
    for bucket in buckets:
        show(rows=bucket.rows, prompts=1, **bench.measure(bucket, [prompt(0, 0, bucket.rows)]))
    for context in options.contexts:
        for bucket, streams, width in guesses(buckets):
            chunks = waiting(streams, context, width)
            figures = bench.measure(bucket, chunks)
            fused = bench.measure(bucket, chunks, kind=GuessStep)
            figures |= {f"six_kernels_{name}": figure for name, figure in fused.items()}
            show(rows=bucket.rows, streams=streams, width=width, context=context, **figures)
    if options.shapes:
        for bucket in buckets[2::3]:
            try_shapes(bench, bucket)
        for bucket, streams, width in guesses(buckets):
            try_splits(bench, bucket, waiting(streams, options.contexts[-1], width))
    if options.profile:
        bench.profile(buckets[-1] if options.toy else BUCKETS[5])


def show(**fields: object) -> None:
    """Print one line."""
    print(json.dumps(fields), flush=True)


def prompt(slot: int, start: int, count: int) -> FlatChunk:
    """Tokens that are all different, their last one yielding."""
    return FlatChunk(slot, start, [(7 * index + slot) % 299 for index in range(count)], 1)


def guesses(buckets: Sequence[Bucket]) -> Iterator[tuple[Bucket, int, int]]:
    """Bucket, streams and width of the steps that verify guesses."""
    for streams, width in GUESSES:
        for bucket in buckets:
            if streams * width <= bucket.rows:
                yield bucket, streams, width
                break


def waiting(streams: int, context: int, width: int) -> list[FlatChunk]:
    """Guesses of streams in the middle of their text."""
    return [prompt(slot, context, width) for slot in range(streams)]


def try_shapes(bench: "Bench", bucket: Bucket) -> None:
    """One prompt under every shape of program that could be best."""
    sizes = ((16, 4), (32, 4), (64, 4), (128, 8))
    for (rows, warps), keys, stages in itertools.product(sizes, (64, 128), (2, 3)):
        shape = ProgramShape(rows, keys, warps, stages)
        try:
            figures = bench.measure(bucket, [prompt(0, 0, bucket.rows)], shape)
        except triton.runtime.errors.OutOfResources as error:
            print(f"{shape}: {error}", file=sys.stderr)
            continue
        show(rows=bucket.rows, shape=dataclasses.astuple(shape), **figures)


def try_splits(bench: "Bench", bucket: Bucket, chunks: list[FlatChunk]) -> None:
    """A step under some numbers of splits."""
    for splits in (1, 2, 4, 8, 16):
        shape = ProgramShape(16 if bucket.tile_rows == 16 else 64, 64, 4, 2, splits)
        figures = bench.measure(bucket, chunks, shape)
        show(rows=bucket.rows, streams=len(chunks), splits=splits, **figures)


class Bench:
    """Weights and a cache on a device."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        """Draw weights."""
        self.config, self.device = config, device
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.card = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        self.state = drawn(config, self.dtype)
        self.weights = empty_weights(config, self.dtype, device)
        fill(self.weights, config, tensors_of(self.state.items()))
        shape = (config.num_hidden_layers, SLOTS, config.num_key_value_heads)
        length = config.max_position_embeddings
        self.cache = KeyValues(
            key=torch.zeros(*shape, length, config.head_dim, dtype=self.dtype, device=device),
            value=torch.zeros(*shape, length, config.head_dim, dtype=self.dtype, device=device),
        )

    def step(
        self,
        layout: FlatLayout,
        bucket: Bucket,
        shape: ProgramShape | None = None,
        kind: type[PrefillStep | GuessStep] = PrefillStep,
    ) -> tuple[Callable[[], None], Tensor, Tensor]:
        """What computes a step, its hidden states and its logits."""
        names = ("token_ids", "positions", "slots", "tiles", "yielding")
        token_ids, positions, slots, tiles, yielding = (
            torch.from_numpy(getattr(layout, name)).to(self.device) for name in names
        )
        last_tokens = torch.zeros(SLOTS, dtype=torch.int32, device=self.device)
        rows = StepRows(
            token_ids=token_ids, positions=positions, slots=slots, last_tokens=last_tokens
        )
        hidden = torch.empty(
            bucket.rows, self.config.hidden_size, dtype=self.dtype, device=self.device
        )
        logits = torch.empty(len(yielding), self.config.vocab_size, device=self.device)
        is_finite = torch.empty(len(yielding), dtype=torch.bool, device=self.device)
        step = kind(
            self.config, self.weights, self.cache, rows, tiles, hidden, bucket.tile_rows, shape
        )
        head = HeadStep(self.config, self.weights, hidden, yielding, logits, is_finite)

        def compute() -> None:
            step.compute()
            head.compute()

        return compute, hidden, logits

    def plain(self, dtype: torch.dtype) -> Decoder:
        """The decoder as it is defined, over the same numbers."""
        state = {name: weight.to(dtype) for name, weight in self.state.items()}
        return decoder_from_weights(self.config, state).to(self.device).eval()

    def errors(self, length: int, kind: type[PrefillStep | GuessStep]) -> dict[str, float]:
        """Relative to float32: of a prompt in two chunks, and of the plain decoder in our dtype."""
        token_ids = [(11 * index) % 299 for index in range(length)]
        bucket, parts = BUCKETS[1], []
        for start, end in ((0, 29), (29, length)):
            chunk = FlatChunk(3, start, token_ids[start:end], end - start)
            compute, hidden, logits = self.step(lay_out([chunk], bucket), bucket, kind=kind)
            compute()
            parts.append((hidden[: end - start].float(), logits.clone()))
        ours, our_logits = (torch.cat(part) for part in zip(*parts, strict=True))
        batch = torch.tensor([token_ids], device=self.device)
        places = torch.arange(length, device=self.device)
        with torch.inference_mode():
            exact = self.plain(torch.float32)
            hidden = exact.hidden(batch, places, CausalAttention(0.0))[0]
            logits = exact.head(hidden)
            rounded = self.plain(self.dtype)
            theirs = rounded.hidden(batch, places, CausalAttention(0.0))[0].float()
        agree = (our_logits.argmax(-1) == logits.argmax(-1)).float().mean()
        return {
            "hidden_error": round(float((ours - hidden).norm() / hidden.norm()), 6),
            "logits_error": round(float((our_logits - logits).norm() / logits.norm()), 6),
            "plain_hidden_error": round(float((theirs - hidden).norm() / hidden.norm()), 6),
            "same_argmax": round(float(agree), 3),
        }

    def measure(
        self,
        bucket: Bucket,
        chunks: list[FlatChunk],
        shape: ProgramShape | None = None,
        kind: type[PrefillStep | GuessStep] = PrefillStep,
    ) -> dict[str, float]:
        """Milliseconds of a replayed step with its head, and of its layout on the host."""
        began = time.perf_counter()
        layout = lay_out(chunks, bucket)
        layout_ms = 1000 * (time.perf_counter() - began)
        compute, _, _ = self.step(layout, bucket, shape, kind)
        compute()  # compiles
        if self.device.type != "cuda":
            return {"layout_ms": round(layout_ms, 3)}
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            compute()
        times = []
        for _ in range(12):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
            for _ in range(5):
                graph.replay()
            events[1].record()
            torch.cuda.synchronize()
            times.append(events[0].elapsed_time(events[1]) / 5)
        return {"step_ms": round(statistics.median(times[2:]), 4), "layout_ms": round(layout_ms, 3)}

    def profile(self, bucket: Bucket) -> None:
        """Print a step's kernels by time."""
        compute, _, _ = self.step(lay_out([prompt(0, 0, bucket.rows)], bucket), bucket)
        compute()
        with torch.profiler.profile() as profile:
            compute()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
        by = "cuda_time_total" if self.device.type == "cuda" else "cpu_time_total"
        print(profile.key_averages().table(sort_by=by, row_limit=16))


def drawn(config: ModelConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """Published weights from a fixed seed: norms around one, the rest as fresh weights are."""
    torch.manual_seed(0)
    state = dict(Decoder(config).state_dict())
    for weight in state.values():
        if weight.dim() == 1:
            weight.uniform_(0.5, 1.5)
        else:
            weight.normal_(std=weight.shape[1] ** -0.5)
    return {name: weight.to(dtype) for name, weight in state.items()}


if __name__ == "__main__":
    main()
