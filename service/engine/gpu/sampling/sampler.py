"""Launches the kernels that choose a step's tokens; nothing else happens on the host."""

import dataclasses

import torch
import triton
from torch import Tensor

from lm.sampling import GREEDY_TEMPERATURE
from service.engine.gpu.sampling.adjustments import Adjustments
from service.engine.gpu.sampling.kernels.choose import choose_tokens
from service.engine.gpu.sampling.kernels.groups import group_tokens
from service.engine.gpu.sampling.rows import SamplingRows
from service.engine.gpu.sampling.variant import Variant


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerTuning:
    """Sizes that decide about speed and never about a token."""

    group: int = 32
    """Neighbouring tokens whose largest logit and weight are known; a power of two."""
    max_groups: int = 4096
    """Groups are twice as large until a vocabulary has no more of them."""
    tokens_a_program: int = 1024
    """What one program of the first kernel reads."""
    tile: int = 1024
    """What the second kernel looks at together of what filters may keep."""
    few: int = 128
    """Tokens up to which each is compared with each instead of searching for edges."""
    capacity: int = 16384
    """Tokens a row that are listed; where filters may keep more, the row itself is read again."""
    bound_steps: int = 12
    group_warps: int = 4
    choose_warps: int = 8


NEGLIGIBLE = 60.0
"""What has a weight below exp(-60) of the likeliest's is never drawn: a uniform number's step is
2^-53, some exp(-37)."""


class DeviceSampler:
    """Chooses tokens of up to ``max_rows`` rows of logits over V tokens.

    What ``compute`` launches may be recorded in a CUDA graph: it reads and writes the tensors it
    was given and workspaces of this object, and allocates nothing. Not for two streams at a time.
    """

    def __init__(
        self,
        max_rows: int,
        vocab_size: int,
        device: torch.device,
        tuning: SamplerTuning | None = None,
    ) -> None:
        """Allocate the workspaces: 3 numbers a group and 2 a listed token, for each row."""
        self.tuning = tuning = tuning or SamplerTuning()
        self.vocab_size = vocab_size
        self.group = tuning.group
        while -(-vocab_size // self.group) > tuning.max_groups:
            self.group *= 2
        self.num_groups = -(-vocab_size // self.group)
        self.capacity = min(vocab_size, tuning.capacity)
        shape = (max_rows, self.num_groups)
        self._peaks, self._sums = torch.zeros((2, *shape), device=device)
        self._group_lists = torch.zeros(shape, dtype=torch.int32, device=device)
        self._value_lists = torch.zeros((max_rows, self.capacity), device=device)
        self._id_lists = torch.zeros((max_rows, self.capacity), dtype=torch.int32, device=device)

    def compute(
        self,
        variant: Variant,
        logits: Tensor,
        rows: SamplingRows,
        tokens: Tensor,
        last_tokens: Tensor,
        adjustments: Adjustments | None = None,
    ) -> None:
        """Choose a token for each row of logits float32 [R, V], contiguous and left as they are.

        Writes ``tokens`` int32 [R] and, at each row's slot, ``last_tokens`` int32 [S]; nothing for
        dead rows. Variants that adjust need ``adjustments``, and no two rows with one slot.
        """
        num_rows = len(logits)
        assert logits.shape == (num_rows, self.vocab_size)
        assert logits.dtype == torch.float32
        assert logits.is_contiguous()
        assert num_rows <= len(self._peaks)
        assert len(rows.slots) >= num_rows
        assert adjustments is not None or not variant.adjusts
        # Kernels that do not adjust read none of the three: any pointer does.
        state = (rows.adjust, self._peaks, self._peaks)
        if adjustments is not None:
            state = (adjustments.words, adjustments.bias, adjustments.penalties)
        self._launch_groups(variant, logits, rows, state)
        self._launch_choice(variant, logits, rows, state, tokens, last_tokens)

    def _launch_groups(
        self, variant: Variant, logits: Tensor, rows: SamplingRows, state: tuple[Tensor, ...]
    ) -> None:
        groups = max(1, self.tuning.tokens_a_program // self.group)
        group_tokens[triton.cdiv(self.num_groups, groups), len(logits)](
            logits,
            rows.slots,
            rows.temperatures,
            rows.adjust,
            *state,
            self._peaks,
            self._sums,
            self.vocab_size,
            self.num_groups,
            GREEDY_BELOW=GREEDY_TEMPERATURE,
            GROUP=self.group,
            GROUPS=groups,
            SUMS=variant.draws,
            ADJUSTED=variant.adjusts,
            num_warps=self.tuning.group_warps,
            enable_fp_fusion=False,
        )

    def _launch_choice(
        self,
        variant: Variant,
        logits: Tensor,
        rows: SamplingRows,
        state: tuple[Tensor, ...],
        tokens: Tensor,
        last_tokens: Tensor,
    ) -> None:
        choose_tokens[(len(logits),)](
            logits,
            rows.slots,
            rows.temperatures,
            rows.uniforms,
            rows.top_k,
            rows.top_p,
            rows.log_min_p,
            rows.adjust,
            *state,
            self._peaks,
            self._sums,
            self._group_lists,
            self._value_lists,
            self._id_lists,
            tokens,
            last_tokens,
            self.vocab_size,
            self.num_groups,
            self.capacity,
            GREEDY_BELOW=GREEDY_TEMPERATURE,
            GROUP=self.group,
            GROUPS=triton.next_power_of_2(self.num_groups),
            TILE=self.tuning.tile,
            FEW=self.tuning.few,
            NEGLIGIBLE=NEGLIGIBLE,
            STEPS=self.tuning.bound_steps,
            DRAWS=variant.draws,
            FILTERS=variant.filters,
            ADJUSTED=variant.adjusts,
            num_warps=self.tuning.choose_warps,
            enable_fp_fusion=False,
        )
