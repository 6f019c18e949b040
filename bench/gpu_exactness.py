"""Whether what the fused engine computes on a GPU is right: a part of ``bench.gpu``."""

import argparse
import dataclasses
import random

import torch

from bench.gpu_load import SAMPLING, make_engine, submit
from service.engine.gpu.definition import plain_logits
from service.engine.gpu.runner import GpuRunner
from service.engine.gpu.tensors import DecoderWeights, LayerWeights
from service.engine.request import TokenGenerated

CLEARLY_WORSE = 0.3
"""Standard deviations of a token's logits: what is nearer to the likeliest may be rounding."""


def check(runner: GpuRunner, options: argparse.Namespace) -> dict[str, float]:
    """Largest distance of logits from the definition's in float32, as a share of the norm.

    The fused steps' must not be larger than that of the definition in bfloat16.
    """
    del options
    errors: dict[str, float] = {}
    rng = random.Random(0)
    exact = in_float32(runner.weight_set.weights)
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
