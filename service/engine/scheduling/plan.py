"""One step of the engine: which tokens of which sequences it computes."""

import dataclasses
from typing import NamedTuple

from service.engine.scheduling.sequence import Sequence
from service.engine.scheduling.slots import Lease

LIGHT_POSITIONS = 1024
"""A prompt's tokens up to here count once."""
TWICE_AFTER = 2048
"""So many positions later they count twice. By operations: SmolLM2-135M's attention in bfloat16 to
2,000 tokens takes about as long as its products in int8."""


class Chunk(NamedTuple):
    """Tokens [start, end) of a sequence, to be computed in one step."""

    sequence: Sequence
    start: int
    end: int
    draft: tuple[int, ...] = ()
    """Guesses at the sequence's next tokens: the last ones of the chunk, to be verified."""

    @property
    def num_tokens(self) -> int:
        """Tokens to compute."""
        return self.end - self.start

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens themselves."""
        return (*self.sequence.tokens(self.start, self.end), *self.draft)

    @property
    def slot(self) -> int:
        """Cache row of the sequence."""
        assert self.sequence.slot is not None, "scheduled sequences hold a slot"
        return self.sequence.slot

    @property
    def num_draws(self) -> int:
        """How many of its last tokens are followed by a draw: from the sequence's last on."""
        return max(0, self.end - self.sequence.num_tokens + 1)

    @property
    def scores_prompt(self) -> bool:
        """Whether its tokens are a prompt's whose next tokens are to be scored."""
        sequence = self.sequence
        return sequence.is_to_score and self.start < sequence.num_prompt

    @property
    def num_logits(self) -> int:
        """How many of its last tokens yield logits."""
        return self.num_tokens if self.scores_prompt else self.num_draws


@dataclasses.dataclass(frozen=True)
class Plan:
    """One step: at most one chunk a sequence; single tokens first by slot, then prompts."""

    chunks: tuple[Chunk, ...]
    started: tuple[Sequence, ...]
    """Sequences that left the queue in this step; what they share counts as computed."""
    copies: tuple[Lease, ...] = ()
    """What to copy for them before the step, in this order."""


def weight_at(position: int) -> float:
    """What a prompt's token counts for in a step: attention to many before it takes longer.

    So that a step behind a long prompt lasts about as long as one at its beginning, also where no
    stream waits for it yet: who comes meanwhile does. A function of the position alone, so that
    equal requests are cut in equal chunks.
    """
    return 1.0 + max(0, position - LIGHT_POSITIONS) / TWICE_AFTER
