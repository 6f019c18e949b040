"""What a request may ask of sampling, and the slow definition of one draw.

A draw is a pure function of (logits, parameters, seed, index of the token): the uniform number
comes from a counter, not from a stateful generator, so that a seeded request gives the same
text alone or in any batch, before or after a restart. The service's batched sampler is tested
against ``sample`` here.
"""

import dataclasses

import torch
from torch import Tensor

MAX_SEED = 2**63 - 1
MAX_TEMPERATURE = 100.0
GREEDY_TEMPERATURE = 1e-5
"""Below this a draw takes the likeliest token, without dividing logits until they overflow."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen; raises ``ValueError`` for what makes no sense."""

    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of likeliest tokens whose probability reaches this."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their range, each by name."""
        if not 0.0 <= self.temperature <= MAX_TEMPERATURE:
            raise ValueError(
                f"temperature must be between 0 and {MAX_TEMPERATURE}, got {self.temperature}"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative (0 keeps all), got {self.top_k}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed must be between 0 and {MAX_SEED}, got {self.seed}")

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < GREEDY_TEMPERATURE


def counter_uniform(seed: int, index: int) -> float:
    """A uniform number in [0, 1) that depends on seed and index alone.

    SplitMix64's output function (Steele, Lea and Flood, OOPSLA 2014) over two mixed words.
    """
    mask = 2**64 - 1
    z = _mix64((seed + 0x9E3779B97F4A7C15) & mask)
    z = _mix64((z + (index + 1) * 0x9E3779B97F4A7C15) & mask)
    return (z >> 11) * 2.0**-53


def _mix64(z: int) -> int:
    mask = 2**64 - 1
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def kept_logits(logits: Tensor, params: SamplingParams) -> Tensor:
    """Logits [V] divided by the temperature (not greedy), with what top-k and top-p drop at -inf.

    Top-p is taken over what top-k left, as transformers' logits processors do. Ties at the
    edge of top-k all stay.
    """
    logits = logits.float() / params.temperature
    if 0 < params.top_k < logits.shape[-1]:
        smallest_kept = logits.topk(params.top_k).values[-1]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    if params.top_p < 1.0:
        ordered, order = logits.sort(descending=True, stable=True)
        before = ordered.softmax(-1).cumsum(-1).roll(1)
        before[0] = 0.0
        dropped = before >= params.top_p
        dropped[0] = False  # the likeliest stays however small top_p is
        logits = logits.index_fill(0, order[dropped], -torch.inf)
    return logits


def sample(logits: Tensor, params: SamplingParams, index: int) -> int:
    """Choose the token with this index in its output from logits [V].

    Sampling inverts the cumulative distribution in vocabulary order at ``counter_uniform``.
    """
    if params.is_greedy:
        return int(logits.argmax())
    probabilities = kept_logits(logits, params).double().softmax(-1)
    cumulative = probabilities.cumsum(-1)
    threshold = counter_uniform(params.seed, index) * float(cumulative[-1])
    return int(torch.searchsorted(cumulative, threshold, right=True))
