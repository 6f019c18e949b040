"""How long the device sampler takes inside a CUDA graph, and whether it draws as defined.

Checks each way of drawing against ``lm.sampling`` over random batches on the card, then times it
for 1, 32 and 256 rows: microseconds a step, medians of many replays. Prints a table and one JSON
line; exits with 1 where a token is not the definition's.
"""

import argparse
import dataclasses
import json
import statistics
import sys

import numpy as np
import torch

from bench.machine import machine
from lm.sampling import SamplingParams, adjusted_logits, sample
from service.engine.gpu.sampling.adjustments import Adjustments
from service.engine.gpu.sampling.rows import SamplingRows
from service.engine.gpu.sampling.sampler import DeviceSampler, SamplerTuning
from service.engine.gpu.sampling.table import SamplingTable

WAYS = {
    "greedy": SamplingParams(temperature=0.0),
    "temperature": SamplingParams(temperature=0.8),
    "top-k 50, top-p 0.95": SamplingParams(temperature=0.8, top_k=50, top_p=0.95),
    "top-p 0.95": SamplingParams(temperature=0.8, top_p=0.95),
    "min-p 0.05": SamplingParams(min_p=0.05),
    "greedy, penalties": SamplingParams(temperature=0.0, frequency_penalty=0.5),
    "temperature, penalties": SamplingParams(repetition_penalty=1.2, presence_penalty=0.5),
    "top-k 50, top-p 0.95, penalties": SamplingParams(top_k=50, top_p=0.95, frequency_penalty=0.5),
}
SPREAD = 4.0
"""Standard deviation of the logits; one of 0.1 is nearly flat: the worst case of top-p."""
REPLAYS = 20


class Step:
    """A recorded step of some rows that all draw in one way."""

    def __init__(self, way: str, num_rows: int, vocab_size: int, tuning: SamplerTuning) -> None:
        device = torch.device("cuda")
        self.params = [dataclasses.replace(WAYS[way], seed=n) for n in range(num_rows)]
        self.adjusts = self.params[0].adjusts_logits
        self.logits = torch.zeros((num_rows, vocab_size), device=device)
        self.tokens = torch.zeros(num_rows, dtype=torch.int32, device=device)
        self.last_tokens = torch.zeros_like(self.tokens)
        self.rows = SamplingRows.empty(num_rows, device)
        self.adjustments = None
        if self.adjusts:
            self.adjustments = Adjustments(num_rows, vocab_size, device)
        self.table = SamplingTable(num_rows)
        for slot, params in enumerate(self.params):
            self.table.begin(slot, params)
        self.sampler = DeviceSampler(num_rows, vocab_size, device, tuning)
        self.prepare(0)
        self.compute()  # compiles
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for _ in range(REPLAYS):
                self.compute()

    def prepare(self, index: int) -> None:
        """Rows and state for the tokens with an index."""
        num_rows = len(self.params)
        staging = SamplingRows.empty(num_rows, torch.device("cpu"))
        arrays = {name: tensor.numpy() for name, tensor in vars(staging).items()}
        indices = np.full(num_rows, index, np.int64)
        self.variant = self.table.fill(arrays, np.arange(num_rows), indices)
        for name, tensor in vars(self.rows).items():
            tensor.copy_(getattr(staging, name))
        if self.adjustments is not None:
            for slot, params in enumerate(self.params):
                self.adjustments.begin(slot, params, (1, 2), (3, 3, slot))

    def compute(self) -> None:
        self.sampler.compute(
            self.variant, self.logits, self.rows, self.tokens, self.last_tokens, self.adjustments
        )

    def microseconds(self) -> float:
        times = []
        for _ in range(15):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            self.graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1000 / REPLAYS)
        return statistics.median(times)

    def unequal(self, index: int) -> int:
        """How many tokens are not the definition's."""
        self.prepare(index)
        self.compute()
        wanted = []
        for slot, (logits, params) in enumerate(zip(self.logits.cpu(), self.params, strict=True)):
            adjusted = adjusted_logits(logits, params, (1, 2), (3, 3, slot))
            wanted.append(sample(adjusted, params, index))
        return sum(a != b for a, b in zip(self.tokens.tolist(), wanted, strict=True))


def main() -> int:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocab-size", type=int, default=49_152)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--batches", type=int, default=20, help="of 8 rows, checked for each way")
    parser.add_argument("--spread", type=float, default=SPREAD, help="of the logits")
    for name in ("tile", "few", "tokens_a_program", "choose_warps", "group_warps"):
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=int, default=getattr(SamplerTuning(), name))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("a CUDA device is needed\n")
        return 2
    tuning = SamplerTuning(
        tile=options.tile,
        few=options.few,
        tokens_a_program=options.tokens_a_program,
        choose_warps=options.choose_warps,
        group_warps=options.group_warps,
    )
    torch.manual_seed(0)
    wrong: dict[str, int] = {}
    times: dict[str, list[float]] = {}
    print("| way | wrong | " + " | ".join(f"{n} rows, µs" for n in options.rows) + " |")
    print("|---" * (2 + len(options.rows)) + "|")
    for way in WAYS:
        step = Step(way, 8, options.vocab_size, tuning)
        wrong[way] = 0
        for index in range(options.batches):
            step.logits.normal_(std=options.spread)
            wrong[way] += step.unequal(index)
        times[way] = []
        for num_rows in options.rows:
            step = Step(way, num_rows, options.vocab_size, tuning)
            step.logits.normal_(std=options.spread)
            times[way].append(round(step.microseconds(), 2))
        print(f"| {way} | {wrong[way]} | " + " | ".join(map(str, times[way])) + " |", flush=True)
    result = {"benchmark": "gpu_sampling", **machine(), "card": torch.cuda.get_device_name()}
    result |= {"rows": options.rows, "microseconds": times, "wrong": wrong}
    print(json.dumps(result))
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
