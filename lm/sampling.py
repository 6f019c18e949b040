"""What a request may ask of sampling, and the slow definition of one draw.

A draw is a pure function of (logits, parameters, seed, index of the token): the uniform number
comes from a counter, not from a stateful generator, so that a seeded request gives the same
text alone or in any batch, before or after a restart. The service's batched sampler is tested
against ``sample`` here.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_SEED = 2**63 - 1
MAX_TEMPERATURE = 100.0
GREEDY_TEMPERATURE = 1e-5
"""Below this a draw takes the likeliest token, without dividing logits until they overflow."""
MAX_BIAS = 100.0
RANGES = {
    "temperature": (0.0, MAX_TEMPERATURE),
    "top_k": (0, MAX_SEED),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
    "seed": (0, MAX_SEED),
}
"""Smallest and largest value of each parameter."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen; raises ``ValueError`` for what makes no sense."""

    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of likeliest tokens whose probability reaches this."""
    min_p: float = 0.0
    """Keep tokens that have at least this share of the likeliest one's probability."""
    repetition_penalty: float = 1.0
    """Above 1 makes every token of prompt and output less likely (Keskar et al., 2019)."""
    frequency_penalty: float = 0.0
    """Taken off a token's logit once for each time that it is in the output."""
    presence_penalty: float = 0.0
    """Taken off the logit of every token that is in the output."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids, and what is added to their logits."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their range, each by name."""
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    f"{name} must be between {low} and {high}, got {getattr(self, name)}"
                )
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if not all(-MAX_BIAS <= bias <= MAX_BIAS for _, bias in self.logit_bias):
            raise ValueError(f"logit_bias must be between {-MAX_BIAS} and {MAX_BIAS}")

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < GREEDY_TEMPERATURE

    @property
    def adjusts_logits(self) -> bool:
        """Whether there is a bias or a penalty."""
        plain = (self.repetition_penalty, self.frequency_penalty, self.presence_penalty)
        return bool(self.logit_bias) or plain != (1.0, 0.0, 0.0)


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


def adjusted_logits(
    logits: Tensor,
    params: SamplingParams,
    prompt_ids: Sequence[int] = (),
    output_ids: Sequence[int] = (),
    banned_ids: Sequence[int] = (),
) -> Tensor:
    """A float32 copy of logits [V] with bias, then penalties, and banned tokens at -inf."""
    logits = logits.to(torch.float32, copy=True)

    def ids(token_ids: Sequence[int]) -> Tensor:
        return torch.tensor(token_ids, dtype=torch.int64, device=logits.device)

    if params.logit_bias:
        biased, biases = zip(*params.logit_bias, strict=True)
        logits[ids(biased)] += torch.tensor(biases, device=logits.device)
    if params.repetition_penalty != 1.0:
        seen = ids((*prompt_ids, *output_ids))
        penalty = params.repetition_penalty
        logits[seen] = torch.where(logits < 0, logits * penalty, logits / penalty)[seen]
    if params.frequency_penalty or params.presence_penalty:
        counts = ids(output_ids).bincount(minlength=len(logits))
        logits -= params.frequency_penalty * counts + params.presence_penalty * (counts > 0)
    logits[ids(banned_ids)] = -torch.inf
    return logits


def kept_logits(logits: Tensor, params: SamplingParams) -> Tensor:
    """Logits [V] by the temperature (not greedy), with what top-k, top-p and min-p drop at -inf.

    Top-p is taken over what top-k left, as transformers' logits processors do. Ties at the
    edge of top-k all stay.
    """
    logits = logits.float() / params.temperature
    if 0 < params.top_k < logits.shape[-1]:
        smallest_kept = logits.topk(params.top_k).values[-1]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    if params.top_p < 1.0:
        ordered, order = logits.sort(descending=True, stable=True)
        cumulative = (ordered.double() - ordered[0]).exp().cumsum(-1)
        dropped = cumulative.roll(1) >= params.top_p * cumulative[-1]
        dropped[0] = False  # the likeliest stays however small top_p is
        logits = logits.index_fill(0, order[dropped], -torch.inf)
    if params.min_p > 0.0:
        floor = logits.max() + math.log(params.min_p)
        logits = logits.masked_fill(logits < floor, -torch.inf)
    return logits


def sample(logits: Tensor, params: SamplingParams, index: int) -> int:
    """Choose the token with this index in its output from logits [V], adjusted where asked for.

    Sampling inverts the cumulative distribution in vocabulary order at ``counter_uniform``.
    """
    if params.is_greedy:
        return int(logits.argmax())
    probabilities = kept_logits(logits, params).double().softmax(-1)
    cumulative = probabilities.cumsum(-1)
    threshold = counter_uniform(params.seed, index) * float(cumulative[-1])
    return int(torch.searchsorted(cumulative, threshold, right=True))
