"""What a step's tokens make of the requests that they are for: events, and their ends."""

import dataclasses
import itertools

from torch import Tensor

from service.engine.request import (
    Event,
    Finished,
    FinishReason,
    PromptScored,
    TokenGenerated,
)
from service.engine.request_faults import failed, must_pass
from service.engine.sampling.rows import score_rows
from service.engine.scheduling.plan import Chunk
from service.engine.scheduling.scheduler import Scheduler
from service.engine.scheduling.sequence import Sequence


class Answers:
    """Takes tokens over into the sequences of one scheduler."""

    def __init__(self, scheduler: Scheduler, max_model_tokens: int) -> None:
        self._scheduler = scheduler
        self._max_model_tokens = max_model_tokens

    def score_prompt(self, chunk: Chunk, logits: Tensor, row: int) -> list[Event]:
        """Score a chunk's next tokens, where asked for; its logits begin at a row of [R, V]."""
        sequence, request = chunk.sequence, chunk.sequence.request
        if not chunk.scores_prompt or request.prompt_logprobs is None:
            return []
        token_ids = request.prompt_ids[chunk.start + 1 : chunk.end + 1]
        rows = logits[row : row + len(token_ids)]
        sequence.prompt_scores += score_rows(rows, token_ids, request.prompt_logprobs)
        is_read = chunk.end >= len(request.prompt_ids)
        sequence.is_to_score = not is_read
        return [PromptScored(request.request_id, tuple(sequence.prompt_scores))] if is_read else []

    def accept(
        self, chunk: Chunk, token_ids: list[int], logits: Tensor | None, row: int
    ) -> list[Event]:
        """Take over what a chunk gave: the drawn tokens up to the first that the draft missed.

        They were drawn from the rows of logits [R, V] that begin with this one.
        """
        sequence = chunk.sequence
        sequence.num_computed = chunk.end - len(chunk.draft)
        events: list[Event] = []
        for ahead, (token_id, guess) in enumerate(itertools.zip_longest(token_ids, chunk.draft)):
            sequence.num_computed += token_id == guess
            scored = None if logits is None else logits[row + ahead]
            events += self.append(sequence, token_id, scored)
            if token_id != guess or events[-1].is_final:
                break
        return events

    def append(self, sequence: Sequence, token_id: int, logits: Tensor | None) -> list[Event]:
        """Append a token chosen from logits [V]; its event, and the final one if it ends.

        The logits are needed only where the request wants scores.
        """
        request, constraint = sequence.request, sequence.constraint
        if not request.max_new_tokens:
            return [self.end(sequence, FinishReason.LENGTH)]
        score = None
        if request.logprobs is not None:
            assert logits is not None, "whoever wants scores has logits"
            (score,) = score_rows(logits[None], [token_id], request.logprobs)
        if constraint is not None and not constraint.accept(token_id):
            ended = self.end(sequence, FinishReason.ERROR, constraint.problem)
            return [dataclasses.replace(ended, is_refusal=True)]
        ends = token_id in sequence.end_ids
        if ends and not (request.include_stop and token_id in request.stop_token_ids):
            return [dataclasses.replace(self.end(sequence, FinishReason.STOP), score=score)]
        sequence.output_ids.append(token_id)
        is_late = len(sequence.output_ids) > request.min_new_tokens
        text, stopped = sequence.text.push(token_id, may_stop=is_late)
        event = TokenGenerated(sequence.request_id, token_id, text, score)
        if stopped:
            self._scheduler.remove(sequence)
            return [event, Finished(sequence.request_id, FinishReason.STOP, by_text=True)]
        if ends or (constraint is not None and constraint.is_complete):
            return [event, self.end(sequence, FinishReason.STOP)]
        reason = sequence.limit_reached(self._max_model_tokens)
        if reason is not None and constraint is not None and constraint.is_whole:
            reason = FinishReason.STOP
        return [event] if reason is None else [event, self.end(sequence, reason)]

    def end(self, sequence: Sequence, reason: FinishReason, message: str = "") -> Finished:
        """Free what a sequence holds and say how it ended."""
        if reason is FinishReason.ERROR:
            sequence.num_computed = 0  # what its slot holds is not to be trusted
        self._scheduler.remove(sequence)
        try:
            text, stopped = sequence.text.finish()
        except BaseException as error:
            if must_pass(error):
                raise
            return failed(sequence.request_id, error)
        if stopped and reason is FinishReason.LENGTH:
            reason = FinishReason.STOP
        return Finished(sequence.request_id, reason, text, message, by_text=stopped)

    def fail(self, sequence: Sequence, error: BaseException) -> Finished:
        """End one request by an error of its own; it may have lost its slot already."""
        if sequence.slot is not None:
            sequence.num_computed = 0  # what its slot holds is not to be trusted
            self._scheduler.remove(sequence)
        return failed(sequence.request_id, error)
