"""Bias, penalties and banned tokens of the sequences in the slots, kept on the device."""

import enum
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from lm.sampling import SamplingParams

BYTES_A_TOKEN = 8
"""Of a slot and a token: a word and a bias."""


class Adjust(enum.IntFlag):
    """Bits of ``SamplingRows.adjust``."""

    NONE = 0
    SLOT = 1
    """The logits are adjusted by what ``begin`` said of the slot; the drawn token is counted."""
    BANS = 2
    """Banned tokens are at -inf; goes with ``SLOT``."""


class Adjustments:
    """State of S slots over a vocabulary of V.

    ``words`` int32 [S, V] holds, for a token, 4 times how often it is in the output, plus 2 where
    it is banned, plus 1 where it is in the prompt. ``bias`` is float32 [S, V]. ``penalties``
    float32 [S, 4] has repetition, frequency and presence penalty, and 1 where there is a bias.
    Words and biases take ``num_bytes``.
    """

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        """Allocates for all slots; raises ``torch.OutOfMemoryError`` where it does not fit."""
        self.words = torch.zeros((num_slots, vocab_size), dtype=torch.int32, device=device)
        self.bias = torch.zeros((num_slots, vocab_size), device=device)
        self.penalties = torch.zeros((num_slots, 4), device=device)
        self.penalties[:, 0] = 1.0  # of slots that were never begun

    @staticmethod
    def num_bytes(num_slots: int, vocab_size: int) -> int:
        """Device memory of words and biases: 100 MB for 256 slots and 49,152 tokens."""
        return num_slots * vocab_size * BYTES_A_TOKEN

    def begin(
        self,
        slot: int,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int] = (),
        banned_ids: Sequence[int] = (),
    ) -> None:
        """Set a slot up for a sequence, on the current stream and without waiting for it.

        ``output_ids`` were drawn before, ``banned_ids`` are what rows with ``BANS`` may not draw.
        Ids are in the vocabulary; a bias given twice for a token counts once, its last value, as in
        ``lm.sampling.adjusted_logits``.
        """
        words = {token_id: 4 * count for token_id, count in Counter(output_ids).items()}
        for bit, token_ids in ((1, prompt_ids), (2, banned_ids)):
            for token_id in set(token_ids):
                words[token_id] = words.get(token_id, 0) + bit
        self.words[slot].zero_()
        self._scatter(self.words[slot], words)
        if params.logit_bias:
            self.bias[slot].zero_()
            self._scatter(self.bias[slot], dict(params.logit_bias))
        numbers = (params.repetition_penalty, params.frequency_penalty, params.presence_penalty)
        has_bias = float(bool(params.logit_bias))
        self.penalties[slot].copy_(
            self._moved(torch.tensor((*numbers, has_bias))), non_blocking=True
        )

    def _scatter(self, row: Tensor, values: dict[int, int] | dict[int, float]) -> None:
        if values:
            token_ids = self._moved(torch.tensor(list(values)))
            row.scatter_(
                0, token_ids, self._moved(torch.tensor([*values.values()], dtype=row.dtype))
            )

    def _moved(self, tensor: Tensor) -> Tensor:
        """On the device; pinned first, so that the host waits for nothing."""
        device = self.words.device
        if device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)
