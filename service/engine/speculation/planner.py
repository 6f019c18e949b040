"""Puts guesses into plans where every sequence decodes and rows are to spare."""

import dataclasses
import logging
import weakref

from service.engine.scheduling.plan import Chunk, Plan
from service.engine.scheduling.sequence import Sequence
from service.engine.speculation.drafter import Drafter

logger = logging.getLogger(__name__)

MAX_ROWS = 16
"""Rows of a step with guesses: up to about here a step costs what its weights cost to read."""


class Speculation:
    """Guesses for the sequences of one engine."""

    def __init__(
        self,
        *,
        max_model_tokens: int,
        max_step_tokens: int,
        max_rows: int = MAX_ROWS,
        guesses_adjusted: bool = True,
    ) -> None:
        """``guesses_adjusted``: also where penalties or a bias depend on the tokens so far."""
        self._max_rows = min(max_rows, max_step_tokens)
        self._guesses_adjusted = guesses_adjusted
        self._max_model_tokens = max_model_tokens
        self._drafters: weakref.WeakKeyDictionary[Sequence, Drafter] = weakref.WeakKeyDictionary()

    def extend(self, plan: Plan) -> Plan:
        """The same plan with guesses where they are worth it."""
        room = self._max_rows // len(plan.chunks) - 1
        if room < 1 or any(chunk.num_tokens > 1 for chunk in plan.chunks):
            return plan
        chunks = [self._with_draft(chunk, room) for chunk in plan.chunks]
        chunks.sort(key=lambda chunk: chunk.num_tokens > 1)
        return dataclasses.replace(plan, chunks=tuple(chunks))

    def awaits(self, sequence: Sequence, num_running: int) -> bool:
        """Whether a sequence should wait for its pending tokens, since it would get guesses then.

        Guesses continue a text, so all of it has to be known.
        """
        if self._max_rows // max(1, num_running) < 2 or not self._may_guess(sequence):
            return False
        return bool(self._drafted(sequence, self._max_rows))

    def give_up(self, sequence: Sequence) -> None:
        """Guess no more for a sequence that had guesses."""
        self._drafters[sequence].has_given_up = True

    def _with_draft(self, chunk: Chunk, room: int) -> Chunk:
        """A chunk of one token, and guesses for as many as may still follow."""
        sequence = chunk.sequence
        if sequence.num_pending or not self._may_guess(sequence):
            return chunk
        num_left = min(
            sequence.request.max_new_tokens - len(sequence.output_ids),
            self._max_model_tokens - sequence.num_tokens,
        )
        draft = self._drafted(sequence, max(0, min(room, num_left - 1)))
        return chunk._replace(end=chunk.end + len(draft), draft=draft)

    def _drafted(self, sequence: Sequence, limit: int) -> tuple[int, ...]:
        """Guesses for a sequence; none any more where guessing fails."""
        drafter = self._drafter(sequence)
        try:
            return drafter.draft(sequence, limit)
        except Exception:
            logger.exception("guessing failed for a request, which goes on without")
            drafter.has_given_up = True
            return ()

    def _may_guess(self, sequence: Sequence) -> bool:
        """Whether draws can be verified; a grammar knows only what has been written."""
        if sequence.constraint is not None:
            return False
        request = sequence.request
        adjusts = request.sampling.adjusts_logits or bool(request.min_new_tokens)
        return self._guesses_adjusted or not adjusts

    def _drafter(self, sequence: Sequence) -> Drafter:
        """The one that guesses for a sequence."""
        drafter = self._drafters.get(sequence)
        if drafter is None:
            drafter = self._drafters[sequence] = Drafter()
        return drafter
