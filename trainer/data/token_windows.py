"""Sequences cut out of a stream of tokens: shuffled for training, in order for validation.

A window of length T holds T inputs and, one token later, T targets; neighbouring windows share
the one token that is a target of the first and an input of the second.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from trainer.data.permutation import derive_key, permute
from trainer.data.token_files import TokenArray
from trainer.step.loss import IGNORED


class TrainingWindows:
    """Endless shuffled windows over one source; the n-th is a pure function of (seed, name, n).

    An epoch visits every window once, in an order of its own; its windows begin at an offset of
    its own, so that their borders differ between epochs.
    """

    def __init__(self, tokens: TokenArray, length: int, *, seed: int, name: str) -> None:
        if len(tokens) <= length:
            raise ValueError(
                f"source {name!r}: {len(tokens)} tokens do not fill one sequence of {length}"
            )
        self._tokens = tokens
        self._length = length
        self._seed = seed
        self._name = name
        self.num_windows = max(1, len(tokens) // length - 1)
        """Windows of one epoch; up to two windows' length is left to shift them by."""

    def start(self, n: int) -> int:
        """Position of the first input of the n-th window."""
        epoch, index = divmod(n, self.num_windows)
        key = derive_key(self._seed, self._name, epoch)
        num_offsets = len(self._tokens) - self.num_windows * self._length
        return key % num_offsets + self._length * permute(index, self.num_windows, key)

    def read(self, n: int) -> TokenArray:
        """Tokens of the n-th window, [T + 1]."""
        start = self.start(n)
        return self._tokens[start : start + self._length + 1]


def validation_batches(
    tokens: TokenArray, length: int, batch: int, *, max_tokens: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows in order that score every token but the first exactly once.

    Args:
        tokens: held-out token ids.
        length: T, inputs in one window.
        batch: B, windows in one batch; the last batch may have fewer.
        max_tokens: score whole windows, evenly spread, of about this many tokens; ``None``: all.

    Yields:
        Inputs and targets, int64 [B, T]; the last window is filled up with ``IGNORED`` targets.

    """
    starts = np.arange(0, len(tokens) - 1, length)
    if max_tokens is not None and max_tokens < len(tokens) - 1:
        count = max(1, max_tokens // length)
        starts = starts[np.arange(count) * len(starts) // count]
    for first in range(0, len(starts), batch):
        rows = starts[first : first + batch]
        inputs = torch.zeros(len(rows), length, dtype=torch.int64)
        targets = torch.full((len(rows), length), IGNORED)
        for row, start in enumerate(rows):
            window = torch.from_numpy(tokens[start : start + length + 1].astype(np.int64))
            inputs[row, : len(window) - 1] = window[:-1]
            targets[row, : len(window) - 1] = window[1:]
        yield inputs, targets
