"""Compares what the recorded steps compute with the definition, before a model may serve."""

from service.engine.gpu.runner import GpuRunner

PROMPT_TOKENS, DECODED_TOKENS = 20, 4
TOLERANCE = 0.15
"""Of the norm of the logits. Two ways of rounding to bfloat16 are 3% apart after 30 layers of
random weights (bench/results/gpu_h100_2026-11-27.md); a kernel that reads a wrong number by 100%.
"""


def distance(runner: GpuRunner) -> float:
    """Largest distance of a token's logits from the definition's, as a share of their norm.

    A short text goes through a prompt's step and decoding steps. NaN where either is not finite.
    """
    vocab_size = runner.config.vocab_size
    count = min(PROMPT_TOKENS + DECODED_TOKENS, runner.cache.max_tokens)
    num_prompt = max(1, count - DECODED_TOKENS)
    token_ids = [(7 + 31 * place) % vocab_size for place in range(count)]
    wanted = runner.score(token_ids)[num_prompt - 1 :].float().cpu()
    got = runner.run_alone(token_ids, num_prompt).float().cpu()
    return float(((got - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max())


def why_wrong(runner: GpuRunner) -> str | None:
    """Why the recorded steps must not serve; ``None`` if they compute what the definition does.

    Weights that are not finite are no fault of the kernels.
    """
    found = distance(runner)
    if found <= TOLERANCE or found != found:  # only NaN differs from itself
        return None
    return f"logits are {found:.0%} of their norm away from the definition"
