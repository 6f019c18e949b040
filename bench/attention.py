"""What training attention costs: PyTorch's kernel beside ``trainer.step.fused.attention``.

Forward and backward in bfloat16, both in turn in one process, medians with the quartiles after a
warm-up: attention alone at three shapes, and a whole micro-batch of ``tiny``. Prints a table and
one JSON line.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from bench.machine import machine
from lm.model.attention import Attend, CausalAttention
from lm.model.decoder import Decoder
from lm.model.initialize import initialize
from trainer.recipe.recipes import load_recipe
from trainer.step.fused.attention import BlockwiseAttention

WARM_UP = 3
SHAPES = {
    "1 x 2,048, nine heads of 64": (1, 9, 3, 2048, 64),
    "4 x 256, nine heads of 64": (4, 9, 3, 256, 64),
    "8 x 256, six heads of 32": (8, 6, 3, 256, 32),
}
"""Rows, query heads, key/value heads, tokens, width of a head."""
KERNELS: dict[str, Attend] = {"sdpa": CausalAttention(), "blocks": BlockwiseAttention()}


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
    works = {name: attention_of(*shape) for name, shape in SHAPES.items()}
    works["a micro-batch of tiny"] = micro_batch_of_tiny()
    rows = [row_of(name, work, repeats) for name, work in works.items()]
    print("| what | sdpa, ms | blocks, ms | ratio |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['what']} | {row['sdpa_ms']} | {row['blocks_ms']} | {row['ratio']} |")
    print(json.dumps({"benchmark": "attention", **machine(), "repeats": repeats, "rows": rows}))


def row_of(name: str, work: Callable[[Attend], None], repeats: int) -> dict[str, object]:
    """Both kernels at one work, in turn."""
    times: dict[str, list[float]] = {kernel: [] for kernel in KERNELS}
    for repeat in range(WARM_UP + repeats):
        for kernel, attend in KERNELS.items():
            began = time.perf_counter()
            work(attend)
            if repeat >= WARM_UP:
                times[kernel].append(1000 * (time.perf_counter() - began))
    row: dict[str, object] = {"what": name}
    for kernel, values in times.items():
        row[f"{kernel}_ms"] = round(statistics.median(values), 1)
        row[f"{kernel}_quartiles"] = [round(value, 1) for value in statistics.quantiles(values)]
    ratio = statistics.median(times["blocks"]) / statistics.median(times["sdpa"])
    return row | {"ratio": round(ratio, 2)}


def attention_of(
    rows: int, heads: int, shared: int, length: int, width: int
) -> Callable[[Attend], None]:
    """Attention alone, forward and backward."""

    def draw(number: int) -> torch.Tensor:
        shape = (rows, number, length, width)
        return torch.randn(shape, dtype=torch.bfloat16, requires_grad=True)

    query, key, value = draw(heads), draw(shared), draw(shared)
    gradient = torch.randn_like(query)

    def work(attend: Attend) -> None:
        torch.autograd.grad(attend(0, query, key, value), (query, key, value), gradient)

    return work


def micro_batch_of_tiny() -> Callable[[Attend], None]:
    """Everything of a micro-batch but the optimizer, with the plain loss and norms."""
    recipe = load_recipe("tiny")
    decoder = Decoder(recipe.model)
    initialize(decoder, seed=0)
    shape = (recipe.batch.micro_batch, recipe.batch.length)
    token_ids = torch.randint(recipe.model.vocab_size, shape)
    return functools.partial(micro_batch, decoder, token_ids)


def micro_batch(decoder: Decoder, token_ids: torch.Tensor, attend: Attend) -> None:
    """One forward and backward pass over token ids [B, T]."""
    with torch.autocast("cpu", torch.bfloat16):
        positions = torch.arange(token_ids.shape[1])
        logits = decoder.head(decoder.hidden(token_ids, positions, attend))
    loss = F.cross_entropy(logits.float().flatten(0, 1), token_ids.flatten())
    loss.backward()
    decoder.zero_grad()


if __name__ == "__main__":
    main()
