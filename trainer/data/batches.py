"""What each micro-batch trains on, as a pure function of the seed and the micro-batch's number.

Nothing is kept between micro-batches: to resume is to ask for the next number. Sequences are
numbered through micro-batches, so k micro-batches of b sequences are one batch of k·b; a stage
begins at exactly its first micro-batch and mixes its sources from there
(``trainer.recipe.mixture``), while each source goes on where the stages before left it.
"""

import bisect
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from trainer.data.token_files import TokenSource
from trainer.data.token_windows import TrainingWindows
from trainer.recipe.mixture import Mixture
from trainer.recipe.schema import Recipe


@dataclasses.dataclass(frozen=True)
class Stage:
    """A mixture of sources and the micro-batch from which on it holds."""

    first_micro_batch: int
    weights: Mapping[str, float]
    """Share of sequences by the source's name; they sum to 1."""


class Batches:
    """All micro-batches of a run, by number."""

    def __init__(
        self,
        sources: Sequence[TokenSource],
        stages: Sequence[Stage],
        length: int,
        micro_batch: int,
        seed: int,
    ) -> None:
        """Lay out a run.

        Args:
            sources: encoded text; the sources that stages name are among them.
            stages: in order, the first at micro-batch 0; none: all sources alike.
            length: T, inputs in one sequence.
            micro_batch: B, sequences in one micro-batch.
            seed: decides every choice there is.

        Raises ``ValueError`` for weights that are no mixture and a source that is too short.
        """
        self._micro_batch = micro_batch
        if not stages:
            stages = [Stage(0, {source.name: 1 / len(sources) for source in sources})]
        assert stages[0].first_micro_batch == 0, stages
        self._windows = {
            source.name: TrainingWindows(source.train, length, seed=seed, name=source.name)
            for source in sources
        }
        self._mixtures = [Mixture(stage.weights) for stage in stages]
        self._first_sequences = [stage.first_micro_batch * micro_batch for stage in stages]
        self._counts_before = self._count_stages()

    @classmethod
    def from_recipe(cls, recipe: Recipe, sources: Sequence[TokenSource]) -> Self:
        """Batches of a recipe, its stages' first steps turned into micro-batches."""
        per_step = recipe.batch.grad_accum_steps if recipe.unit == "optimizer" else 1
        stages = [Stage(stage.first_step * per_step, stage.weights) for stage in recipe.stages]
        return cls(sources, stages, recipe.batch.length, recipe.batch.micro_batch, recipe.seed)

    def micro_batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a micro-batch, int64 [B, T]."""
        first = number * self._micro_batch
        rows = [self._read(sequence) for sequence in range(first, first + self._micro_batch)]
        tokens = torch.from_numpy(np.stack(rows).astype(np.int64))
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def locate(self, sequence: int) -> tuple[str, int]:
        """The source of a sequence, and which of that source's windows it is."""
        stage = bisect.bisect_right(self._first_sequences, sequence) - 1
        within = sequence - self._first_sequences[stage]
        mixture = self._mixtures[stage]
        name = mixture.source(within)
        return name, self._counts_before[stage][name] + mixture.count(name, within)

    def _read(self, sequence: int) -> np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]:
        name, n = self.locate(sequence)
        return self._windows[name].read(n)

    def _count_stages(self) -> list[dict[str, int]]:
        """Windows that each source gave before each stage."""
        counts = [dict.fromkeys(self._windows, 0)]
        for stage, mixture in enumerate(self._mixtures[:-1]):
            length = self._first_sequences[stage + 1] - self._first_sequences[stage]
            before = counts[-1]
            counts.append({name: before[name] + mixture.count(name, length) for name in before})
        return counts
