"""One model's loop: schedule → forward → sample → events. Knows no clock and no thread."""

import dataclasses
import itertools
from collections.abc import Collection

from torch import Tensor

from lm.sampling import SamplingParams
from lm.tokenizer import Tokenizer
from service.engine.profile import Laps
from service.engine.request import (
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    PromptScored,
    Started,
    StepStats,
    TokenGenerated,
)
from service.engine.runner import StepCache, StepRunner
from service.engine.sampling import draw, score_rows
from service.engine.scheduler import Chunk, Plan, Scheduler
from service.engine.sequence import Sequence
from service.engine.slots import SlotPool
from service.engine.speculation.planner import Speculation
from service.engine.structured import Grammars


class Engine:
    """Serves the requests of one set of weights until they are done."""

    def __init__(
        self,
        runner: StepRunner,
        tokenizer: Tokenizer,
        *,
        max_step_tokens: int,
        reuse_prefixes: bool = True,
        speculation: bool = True,
        laps: Laps | None = None,
        slots: SlotPool | None = None,
    ) -> None:
        """``slots`` where the cache is shared with another model's engine."""
        self._tokenizer = tokenizer
        self.grammars = Grammars(tokenizer)
        self._runner = runner
        self._scheduler = Scheduler(
            num_slots=runner.cache.num_slots,
            max_step_tokens=max_step_tokens,
            reuse_prefixes=reuse_prefixes,
            slots=slots,
        )
        self._speculation = None
        if speculation:
            self._speculation = Speculation(
                max_model_tokens=runner.cache.max_tokens, max_step_tokens=max_step_tokens
            )
        self._last_step = StepStats()
        self._laps = laps or Laps()

    @property
    def is_idle(self) -> bool:
        """Whether no request is queued or running."""
        return not (self._scheduler.running or self._scheduler.waiting)

    @property
    def cache(self) -> StepCache:
        """Where its keys and values are; other engines' may be there, too."""
        return self._runner.cache

    def warm_up(self) -> None:
        """Run a prompt, a continued prompt and a decode step; call before the first ``submit``.

        The first pass over fresh weights pages them in and lets libraries choose their kernels.
        """
        self.grammars.warm_up()
        length = min(8, self._runner.cache.max_tokens - 1)
        request = GenerationRequest(
            request_id="warm-up",
            prompt_ids=(0,) * length,
            max_new_tokens=1,
            sampling=SamplingParams(temperature=0.0),
        )
        sequence = Sequence(request, self._tokenizer)
        sequence.slot = 0
        for start, end in itertools.pairwise(sorted({0, length // 2, length - 1, length})):
            self._runner.run(Plan((Chunk(sequence, start, end),), ()))

    def alone(self) -> "Engine":
        """An engine over the same weights for a thread that tries them out before they serve."""
        return self

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request."""
        constraint = None
        if request.grammar is not None:
            room = self._runner.cache.max_tokens - len(request.prompt_ids)
            budget = min(request.max_new_tokens, room)
            constraint = self.grammars.begin(request.grammar, budget, request.prepared)
        self._scheduler.add(Sequence(request, self._tokenizer, constraint))

    def finish(self, request_id: str, reason: FinishReason) -> list[Event]:
        """End a request from outside; nothing if it has already ended."""
        sequence = self._scheduler.find(request_id)
        return [] if sequence is None else [self._end(sequence, reason)]

    def finish_all(self, reason: FinishReason, message: str = "") -> list[Event]:
        """End every request."""
        return [self._end(sequence, reason, message) for sequence in self._sequences()]

    def expire(self, now: float) -> list[Event]:
        """End the requests whose deadline has passed."""
        return [
            self._end(sequence, FinishReason.TIMEOUT)
            for sequence in self._sequences()
            if sequence.request.deadline is not None and sequence.request.deadline <= now
        ]

    def step(self) -> list[Event]:
        """Compute one plan; empty if there is nothing to do."""
        plan = self._scheduler.schedule()
        if plan is None:
            self._last_step = StepStats()
            return []
        if self._speculation is not None:
            plan = self._speculation.extend(plan)
        events: list[Event] = [Started(s.request_id, s.num_computed) for s in plan.started]
        for target, source, num_tokens in plan.copies:
            self._runner.cache.copy(source, target, num_tokens)
        self._laps.lap("scheduling")
        output = self._runner.run(plan)
        self._laps.computed(self._runner)
        drawn = iter(draw(output.logits, plan))
        self._laps.lap("drawing tokens")
        num_accepted, end = 0, 0
        for chunk, is_finite in zip(plan.chunks, output.is_finite, strict=True):
            row, end = end, end + chunk.num_logits
            token_ids = list(itertools.islice(drawn, chunk.num_draws))
            if is_finite:
                events += self._score_prompt(chunk, output.logits, row)
                events += self._accept(chunk, token_ids, output.logits, end - chunk.num_draws)
            else:
                events += self._break_off(chunk)
            num_accepted += max(0, chunk.sequence.num_computed - chunk.end + len(chunk.draft))
        self._laps.lap("making text and events")
        self._last_step = StepStats(
            batch_size=len(plan.chunks),
            num_tokens=sum(chunk.num_tokens for chunk in plan.chunks),
            num_draft_tokens=sum(len(chunk.draft) for chunk in plan.chunks),
            num_accepted_tokens=num_accepted,
        )
        return events

    def stats(self) -> StepStats:
        """The last step, and the state it left."""
        return dataclasses.replace(
            self._last_step,
            num_running=len(self._scheduler.running),
            num_waiting=len(self._scheduler.waiting),
            num_cached_tokens=sum(s.num_computed for s in self._scheduler.running),
            cache_capacity=self._runner.cache.capacity,
        )

    def check_integrity(self) -> None:
        """Assert that nothing is lost or held twice."""
        self._scheduler.check_integrity()

    def _sequences(self) -> Collection[Sequence]:
        return (*self._scheduler.running, *self._scheduler.waiting)

    def _score_prompt(self, chunk: Chunk, logits: Tensor, row: int) -> list[Event]:
        """Score a chunk's next tokens, where asked for; its logits begin at a row of [R, V]."""
        sequence, request = chunk.sequence, chunk.sequence.request
        if not chunk.scores_prompt or request.prompt_logprobs is None:
            return []
        token_ids = request.prompt_ids[chunk.start + 1 : chunk.end + 1]
        rows = logits[row : row + len(token_ids)]
        sequence.prompt_scores += score_rows(rows, token_ids, request.prompt_logprobs)
        is_read = chunk.end == len(request.prompt_ids)
        return [PromptScored(request.request_id, tuple(sequence.prompt_scores))] if is_read else []

    def _accept(
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
            events += self._append(sequence, token_id, scored)
            if token_id != guess or events[-1].is_final:
                break
        return events

    def _append(self, sequence: Sequence, token_id: int, logits: Tensor | None) -> list[Event]:
        """Append a token chosen from logits [V]; its event, and the final one if it ends.

        The logits are needed only where the request wants scores.
        """
        request, constraint = sequence.request, sequence.constraint
        if not request.max_new_tokens:
            return [self._end(sequence, FinishReason.LENGTH)]
        score = None
        if request.logprobs is not None:
            assert logits is not None, "whoever wants scores has logits"
            (score,) = score_rows(logits[None], [token_id], request.logprobs)
        if constraint is not None and not constraint.accept(token_id):
            ended = self._end(sequence, FinishReason.ERROR, constraint.problem)
            return [dataclasses.replace(ended, is_refusal=True)]
        ends = token_id in sequence.end_ids
        if ends and not (request.include_stop and token_id in request.stop_token_ids):
            return [dataclasses.replace(self._end(sequence, FinishReason.STOP), score=score)]
        sequence.output_ids.append(token_id)
        is_late = len(sequence.output_ids) > request.min_new_tokens
        text, stopped = sequence.text.push(token_id, may_stop=is_late)
        event = TokenGenerated(sequence.request_id, token_id, text, score)
        if stopped:
            self._scheduler.remove(sequence)
            return [event, Finished(sequence.request_id, FinishReason.STOP, by_text=True)]
        if ends or (constraint is not None and constraint.is_complete):
            return [event, self._end(sequence, FinishReason.STOP)]
        reason = sequence.limit_reached(self._runner.cache.max_tokens)
        if reason is not None and constraint is not None and constraint.is_whole:
            reason = FinishReason.STOP
        return [event] if reason is None else [event, self._end(sequence, reason)]

    def _break_off(self, chunk: Chunk) -> list[Event]:
        """Wipe numbers that overflowed from a slot, and end their sequence.

        Where guesses may be at fault, it goes on without any.
        """
        end = max(chunk.end, chunk.sequence.num_computed)
        self._runner.cache.clear(chunk.slot, chunk.start, end)
        if chunk.draft and self._speculation is not None:
            self._speculation.give_up(chunk.sequence)
            return []
        return [self._end(chunk.sequence, FinishReason.ERROR, "the model's numbers are not finite")]

    def _end(self, sequence: Sequence, reason: FinishReason, message: str = "") -> Finished:
        """Free what a sequence holds and say how it ended."""
        if reason is FinishReason.ERROR:
            sequence.num_computed = 0  # what its slot holds is not to be trusted
        self._scheduler.remove(sequence)
        text, stopped = sequence.text.finish()
        if stopped and reason is FinishReason.LENGTH:
            reason = FinishReason.STOP
        return Finished(sequence.request_id, reason, text, message, by_text=stopped)
