"""The yardstick of ``time_to_quality``: nanoGPT's recipe for CPUs, as plain PyTorch runs it.

Four layers of 128 on 64 characters, batches of 12, 2,000 steps of AdamW, float32, no dropout: what
the README of https://github.com/karpathy/nanoGPT tells a reader without a GPU to run. The
architecture is one that ``lm.model.decoder`` spans, with PyTorch's own attention; of the trainer's
code nothing runs. Prints one JSON line.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.model.config import ModelConfig
from lm.model.decoder import Decoder
from lm.model.initialize import initialize

LENGTH, BATCH, STEPS, WARM_UP = 64, 12, 2000, 100
PEAK, FLOOR, BETAS, WEIGHT_DECAY, CLIP = 1e-3, 1e-4, (0.9, 0.99), 0.1, 1.0


def main() -> None:
    """Train, evaluate once, print a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    text = parser.parse_args().text.read_text("utf-8")
    vocabulary = sorted(set(text))
    number = {character: index for index, character in enumerate(vocabulary)}
    token_ids = torch.tensor([number[character] for character in text])
    cut = int(0.9 * len(token_ids))
    decoder = make_decoder(len(vocabulary))
    train(decoder, token_ids[:cut])
    began = time.perf_counter()
    nats = mean_loss(decoder, token_ids[cut:])
    bits = nats / math.log(2) * len(text[cut:]) / len(text[cut:].encode())
    evaluation_s = time.perf_counter() - began
    print(json.dumps({"bits_per_byte": round(bits, 4), "evaluation_s": round(evaluation_s, 2)}))


def make_decoder(vocab_size: int) -> Decoder:
    """GPT-2's architecture, small."""
    config = ModelConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LENGTH,
        positions="learned",
        norm="layernorm",
        mlp="gelu_erf",
        initializer_range=0.02,
    )
    decoder = Decoder(config)
    initialize(decoder, seed=1337)
    return decoder


def train(decoder: Decoder, token_ids: Tensor) -> None:
    """All steps, each on windows drawn anywhere in the text."""
    matrices = [parameter for parameter in decoder.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in decoder.parameters() if parameter.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=BETAS, weight_decay=WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(1337)
    for step in range(STEPS):
        starts = torch.randint(len(token_ids) - LENGTH, (BATCH,), generator=generator)
        windows = torch.stack([token_ids[start : start + LENGTH + 1] for start in starts])
        loss = F.cross_entropy(decoder(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), CLIP)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.step()


def learning_rate(step: int) -> float:
    """Linear warm-up, then a cosine to a tenth."""
    if step < WARM_UP:
        return PEAK * (step + 1) / (WARM_UP + 1)
    progress = (step - WARM_UP) / (STEPS - WARM_UP)
    return FLOOR + 0.5 * (1.0 + math.cos(math.pi * progress)) * (PEAK - FLOOR)


@torch.inference_mode()
def mean_loss(decoder: Decoder, token_ids: Tensor) -> float:
    """Nats a character over whole windows of held-out text."""
    windows = token_ids[: (len(token_ids) - 1) // LENGTH * LENGTH + 1]
    inputs, targets = windows[:-1].view(-1, LENGTH), windows[1:].view(-1, LENGTH)
    logits = torch.cat([decoder(part) for part in torch.split(inputs, 256)])
    return float(F.cross_entropy(logits.flatten(0, 1), targets.flatten()))


if __name__ == "__main__":
    main()
