"""What a runner needs of kernels: steps that read and write fixed tensors, and so can be recorded.

``fused`` has them in Triton; the tests have them in PyTorch's operators.
"""

from typing import Protocol

from torch import Tensor

from lm.model.config import ModelConfig
from service.engine.gpu.sampling.rows import SamplingRows
from service.engine.gpu.sampling.variant import Variant
from service.engine.gpu.tensors import DecoderWeights, KeyValues, StepRows
from service.engine.scheduling.sequence import Sequence


class Step(Protocol):
    """A computation over tensors that were given when it was made."""

    def compute(self) -> None:
        """Queue the work; waits for nothing and looks at no value."""
        ...


class StepKernels(Protocol):
    """Makes the steps of one way to compute."""

    name: str
    """For people: ``fused`` or ``plain``."""

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
        """A step of one token a sequence; ``is_long`` where some have thousands of keys.

        Writes logits, float32 [N, V], and whether each row's hidden state is finite, bool [N].
        """
        ...

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
        """A step of several tokens a sequence; writes final hidden states [N, C].

        ``tiles``, int32 [M, 2], are first row and number of rows of neighbours in one sequence.
        """
        ...

    def head(
        self,
        config: ModelConfig,
        weights: DecoderWeights,
        hidden: Tensor,
        row_indices: Tensor,
        logits: Tensor,
        is_finite: Tensor,
    ) -> Step:
        """Logits of some rows, int32 [R] (-1 is none), of final hidden states [N, C]."""
        ...


class Sampler(Protocol):
    """Draws tokens from logits where they are."""

    def can_draw(self, sequence: Sequence) -> bool:
        """Whether a sequence's tokens can be drawn on the device."""
        ...

    def begin(self, slot: int, sequence: Sequence) -> None:
        """A sequence has taken a slot."""
        ...

    def compute(
        self,
        variant: Variant,
        logits: Tensor,
        rows: SamplingRows,
        tokens: Tensor,
        last_tokens: Tensor,
    ) -> None:
        """Draw from logits, float32 [R, V].

        Writes ``tokens``, int32 [R], and for each living row the token of its slot to
        ``last_tokens``, int32 [S].
        """
        ...
