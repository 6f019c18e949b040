"""Rows for the sampler, and the slow loop over ``lm.sampling`` that it must agree with."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from lm.sampling import (
    SamplingParams,
    adjusted_logits,
    counter_uniform,
    kept_logits,
    sample,
)
from service.engine.gpu.sampling.adjustments import Adjustments
from service.engine.gpu.sampling.rows import SamplingRows
from service.engine.gpu.sampling.sampler import DeviceSampler, SamplerTuning
from service.engine.gpu.sampling.table import SamplingTable
from service.engine.gpu.sampling.variant import Variant

UNTOUCHED = -7
CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """One row: its logits [V] and what its sequence asks for."""

    logits: Tensor
    params: SamplingParams
    index: int = 0
    prompt_ids: tuple[int, ...] = ()
    output_ids: tuple[int, ...] = ()
    banned_ids: tuple[int, ...] = ()

    @property
    def adjusts(self) -> bool:
        return bool(self.params.adjusts_logits or self.banned_ids)

    @property
    def adjusted(self) -> Tensor:
        return adjusted_logits(
            self.logits, self.params, self.prompt_ids, self.output_ids, self.banned_ids
        )


def fill(rows: SamplingRows, draws: list[Draw], slots: list[int]) -> Variant:
    """Rows of a step, one a draw, and the least variant for them."""
    table = SamplingTable(max(*slots, len(draws)) + 1)
    for draw, slot in zip(draws, slots, strict=True):
        banned_until = draw.index + 1 if draw.banned_ids else 0
        table.begin(slot, draw.params, min_new_tokens=banned_until)
    staging = SamplingRows.empty(len(draws), CPU)
    variant = table.fill(
        {name: tensor.numpy() for name, tensor in vars(staging).items()},
        np.array(slots),
        np.array([draw.index for draw in draws]),
    )
    for field in dataclasses.fields(SamplingRows):
        getattr(rows, field.name).copy_(getattr(staging, field.name))
    return variant


def device_tokens(
    draws: list[Draw],
    variant: Variant | None = None,
    tuning: SamplerTuning | None = None,
    device: torch.device = CPU,
) -> list[int]:
    """What the kernels draw; the row of a draw is not its slot."""
    num_rows, vocab_size = len(draws), len(draws[0].logits)
    slots = [(3 * n + 1) % num_rows if num_rows % 3 else n for n in range(num_rows)]
    rows = SamplingRows.empty(num_rows, device)
    least = fill(rows, draws, slots)
    variant = variant or least
    adjustments = Adjustments(num_rows, vocab_size, device) if variant.adjusts else None
    for draw, slot in zip(draws, slots, strict=True):
        if adjustments is not None and draw.adjusts:
            adjustments.begin(slot, draw.params, draw.prompt_ids, draw.output_ids, draw.banned_ids)
    logits = torch.stack([draw.logits for draw in draws]).to(device)
    tokens = torch.full((num_rows,), UNTOUCHED, dtype=torch.int32, device=device)
    last_tokens = torch.full((num_rows,), UNTOUCHED, dtype=torch.int32, device=device)
    sampler = DeviceSampler(num_rows, vocab_size, device, tuning)
    sampler.compute(variant, logits, rows, tokens, last_tokens, adjustments)
    drawn: list[int] = tokens.tolist()
    assert [last_tokens.tolist()[slot] for slot in slots] == drawn
    assert torch.equal(logits.cpu(), torch.stack([draw.logits for draw in draws]))
    return drawn


def reference_tokens(draws: list[Draw]) -> list[int]:
    return [sample(draw.adjusted, draw.params, draw.index) for draw in draws]


def assert_as_defined(draws: list[Draw], drawn: list[int]) -> None:
    """Equal, or a neighbour where the uniform number is within 1e-6 of their boundary."""
    for draw, token, wanted in zip(draws, drawn, reference_tokens(draws), strict=True):
        if token != wanted:
            assert not draw.params.is_greedy, (draw, token, wanted)
            assert_is_at_boundary(draw, token)


def assert_is_at_boundary(draw: Draw, token: int) -> None:
    weights = kept_logits(draw.adjusted, draw.params).double().softmax(-1)
    ends = weights.cumsum(-1)
    uniform = counter_uniform(draw.params.seed, draw.index) * float(ends[-1])
    assert weights[token] > 0, (draw.params, token)
    start, end = float(ends[token] - weights[token]), float(ends[token])
    assert start - 1e-6 <= uniform <= end + 1e-6, (draw.params, token, start, end, uniform)
