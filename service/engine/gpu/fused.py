"""The Triton kernels as ``kernel_set`` wants them, and whether they can compute a model here."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lm.model.config import ModelConfig
from service.engine.gpu.availability import why_no_card, why_no_shape, why_no_triton
from service.engine.gpu.kernel_set import Step
from service.engine.gpu.sampling.rows import SamplingRows
from service.engine.gpu.sampling.variant import Variant
from service.engine.gpu.tensors import DecoderWeights, KeyValues, StepRows
from service.engine.scheduling.sequence import Sequence
from service.engine.served_model import FUSED

if TYPE_CHECKING:  # importing it needs Triton
    from service.engine.gpu.kernels.choices import Choices

Choose = Callable[[ModelConfig, DecoderWeights, int], "Choices"]
"""The kernels of a step of so many rows over these weights."""
MAX_GUESS_ROWS = 16
"""Rows up to which a flat step is faster in six kernels a layer than in nine: 0.64 against 0.74 ms
for 16, 1.03 against 0.75 for 32, on two H100s (bench/results/gpu_h100_2026-11-27.md)."""


def why_unsupported(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the fused kernels cannot compute a model on a device; ``None`` if they can."""
    if dtype is not torch.bfloat16:
        return f"weights are {dtype}, not bfloat16".replace("torch.", "")
    return why_no_shape(config) or why_no_card(device) or why_no_triton()


class FusedKernels:
    """Makes steps of Triton kernels, and of cuBLAS's products where those are faster."""

    name = FUSED

    def __init__(self, choose: Choose | None = None) -> None:
        """``choose`` says which kernels are the fastest; without it all have defaults."""
        self._choose = choose

    def decode(
        self,
        config: ModelConfig,
        weights: DecoderWeights,
        cache: KeyValues,
        rows: StepRows,
        logits: Tensor,
        is_finite: Tensor,
        *,
        is_long: bool,
    ) -> Step:
        """See ``StepKernels``."""
        from service.engine.gpu.kernels.choices import default_attention, default_choices
        from service.engine.gpu.kernels.decode_step import DecodeStep

        count = len(rows.token_ids)
        if self._choose is None:
            choices = default_choices(config, count, is_long=is_long)
        else:
            choices = self._choose(config, weights, count)
            if is_long:
                attention = default_attention(config, count, is_long=True)
                choices = dataclasses.replace(choices, attention=attention)
        return DecodeStep(config, weights, cache, rows, logits, is_finite, choices)

    def prefill(
        self,
        config: ModelConfig,
        weights: DecoderWeights,
        cache: KeyValues,
        rows: StepRows,
        tiles: Tensor,
        hidden: Tensor,
        tile_rows: int,
    ) -> Step:
        """See ``StepKernels``."""
        from service.engine.gpu.flat.guess_step import GuessStep
        from service.engine.gpu.flat.prefill_step import PrefillStep

        kind = GuessStep if len(hidden) <= MAX_GUESS_ROWS else PrefillStep
        return kind(config, weights, cache, rows, tiles, hidden, tile_rows)

    def head(
        self,
        config: ModelConfig,
        weights: DecoderWeights,
        hidden: Tensor,
        row_indices: Tensor,
        logits: Tensor,
        is_finite: Tensor,
    ) -> Step:
        """See ``StepKernels``."""
        from service.engine.gpu.flat.head_step import HeadStep

        return HeadStep(config, weights, hidden, row_indices, logits, is_finite)


class FusedSampler:
    """Draws on the device, bias and penalties included; one for each set of weights."""

    def __init__(
        self, max_rows: int, vocab_size: int, num_slots: int, device: torch.device
    ) -> None:
        from service.engine.gpu.sampling.adjustments import Adjustments
        from service.engine.gpu.sampling.sampler import DeviceSampler

        self._sampler = DeviceSampler(max_rows, vocab_size, device)
        self._adjustments = Adjustments(num_slots, vocab_size, device)

    def can_draw(self, sequence: Sequence) -> bool:
        """Whether a sequence's tokens can be drawn on the device: all of them."""
        del sequence
        return True

    def begin(self, slot: int, sequence: Sequence) -> None:
        """A sequence has taken a slot."""
        request = sequence.request
        if request.sampling.adjusts_logits or request.min_new_tokens:
            banned_ids = sequence.end_ids if request.min_new_tokens else ()
            self._adjustments.begin(
                *(slot, request.sampling, request.prompt_ids, sequence.output_ids),
                banned_ids=banned_ids,
            )

    def compute(
        self,
        variant: Variant,
        logits: Tensor,
        rows: SamplingRows,
        tokens: Tensor,
        last_tokens: Tensor,
    ) -> None:
        """See ``Sampler``."""
        self._sampler.compute(variant, logits, rows, tokens, last_tokens, self._adjustments)
