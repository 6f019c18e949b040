"""Compares what the recorded steps compute with the definition, before a model may serve."""

import math

from torch import Tensor

from service.engine.gpu.runner import GpuRunner

PROMPT_TOKENS, DECODED_TOKENS = 20, 4
TOLERANCE = 0.15
"""Of the norm of the logits. Two ways of rounding to bfloat16 are 3% apart after 30 layers of
random weights (bench/results/gpu_h100_2026-11-27.md); a kernel that reads a wrong number by 100%.
"""
SHORT_TOKENS = 12
"""Of the text that every recorded step computes: fewer than the smallest of them holds."""


def distance(runner: GpuRunner) -> float:
    """Largest distance of a token's logits from the definition's, as a share of their norm.

    A short text goes through a prompt's step and decoding steps. NaN where the definition's are
    not finite, infinity where those of the steps alone are not.
    """
    count = min(PROMPT_TOKENS + DECODED_TOKENS, runner.cache.max_tokens)
    num_prompt = max(1, count - DECODED_TOKENS)
    token_ids = text(runner, count)
    wanted = runner.score(token_ids)[num_prompt - 1 :].float().cpu()
    got = runner.run_alone(token_ids, num_prompt).float().cpu()
    return apart(got, wanted)


def distances(runner: GpuRunner) -> dict[str, float]:
    """The same for the last token of a shorter text, by recorded step: each has its own kernels."""
    token_ids = text(runner, min(SHORT_TOKENS, runner.cache.max_tokens))
    wanted = runner.score(token_ids)[-1:].float()
    return {
        name: apart(logits.float(), wanted) for name, logits in runner.run_every_step(token_ids)
    }


def why_wrong(runner: GpuRunner) -> str | None:
    """Why the recorded steps must not serve; ``None`` if they compute what the definition does.

    Weights that are not finite are no fault of the kernels.
    """
    found = {"a prompt and decoding": distance(runner), **distances(runner)}
    for name, value in found.items():
        if value > TOLERANCE:  # NaN is not
            return f"logits of {name} are {value:.0%} of their norm away from the definition"
    return None


def text(runner: GpuRunner, count: int) -> list[int]:
    """Token ids that are all over the vocabulary."""
    return [(7 + 31 * place) % runner.config.vocab_size for place in range(count)]


def apart(got: Tensor, wanted: Tensor) -> float:
    """Largest distance of rows of logits [R, V] from those wanted, [R, V] or one for all [1, V]."""
    if not wanted.isfinite().all():
        return math.nan
    found = float(((got - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max())
    return found if math.isfinite(found) else math.inf
