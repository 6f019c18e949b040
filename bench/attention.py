"""What training attention costs: a whole micro-batch of ``tiny`` with either kernel.

Forward and backward in bfloat16 autocast, both kernels in turn in one process, medians with the
spread after a warm-up. Prints a table and one JSON line.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

from bench.engine import machine
from lm.attention import Attend, CausalAttention
from lm.decoder import Decoder
from lm.initialize import initialize
from trainer.recipes import load_recipe
from trainer.speed.attention import BlockwiseAttention

WARM_UP = 3


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    recipe = load_recipe("tiny")
    decoder = Decoder(recipe.model)
    initialize(decoder, seed=0)
    shape = (recipe.batch.micro_batch, recipe.batch.length)
    token_ids = torch.randint(recipe.model.vocab_size, shape)
    kernels: dict[str, Attend] = {"sdpa": CausalAttention(), "blocks": BlockwiseAttention()}
    times: dict[str, list[float]] = {name: [] for name in kernels}
    for repeat in range(WARM_UP + options.repeats):
        for name, attend in kernels.items():
            taken = micro_batch_ms(decoder, token_ids, attend)
            if repeat >= WARM_UP:
                times[name].append(taken)
    rows = {
        name: {
            "median_ms": round(statistics.median(values), 1),
            "quartiles_ms": [round(value, 1) for value in statistics.quantiles(values)],
        }
        for name, values in times.items()
    }
    print("| kernel | median ms | quartiles ms |\n|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['median_ms']} | {row['quartiles_ms']} |")
    ratio = statistics.median(times["blocks"]) / statistics.median(times["sdpa"])
    print(json.dumps({"benchmark": "attention", **machine(), "ratio": round(ratio, 3), **rows}))


def micro_batch_ms(decoder: Decoder, token_ids: torch.Tensor, attend: Attend) -> float:
    """Milliseconds of one forward and backward pass over token ids [B, T]."""
    began = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        positions = torch.arange(token_ids.shape[1])
        logits = decoder.head(decoder.hidden(token_ids, positions, attend))
    loss = F.cross_entropy(logits.float().flatten(0, 1), token_ids.flatten())
    loss.backward()
    decoder.zero_grad()
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
