"""One model's loop: schedule → forward → sample → events. Knows no clock and no thread."""

import itertools
from collections.abc import Collection

from lm.sampling import SamplingParams
from lm.tokenizer import Tokenizer
from service.engine.request import (
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    Started,
    StepStats,
    TokenGenerated,
)
from service.engine.runner import StepRunner
from service.engine.sampling import sample_rows
from service.engine.scheduler import Chunk, Plan, Scheduler
from service.engine.sequence import Sequence


class Engine:
    """Serves the requests of one set of weights until they are done."""

    def __init__(self, runner: StepRunner, tokenizer: Tokenizer, *, max_step_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._runner = runner
        num_slots = runner.cache.num_slots
        self._scheduler = Scheduler(num_slots=num_slots, max_step_tokens=max_step_tokens)
        self._last_step = StepStats()

    @property
    def is_idle(self) -> bool:
        """Whether no request is queued or running."""
        return not (self._scheduler.running or self._scheduler.waiting)

    def warm_up(self) -> None:
        """Run a prompt, a continued prompt and a decode step; call before the first ``submit``.

        The first pass over fresh weights pages them in and lets libraries choose their kernels.
        """
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

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request."""
        self._scheduler.add(Sequence(request, self._tokenizer))

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
        events: list[Event] = [Started(sequence.request_id) for sequence in plan.started]
        output = self._runner.run(plan)
        for chunk in plan.chunks:
            chunk.sequence.num_computed = chunk.end
        yielding = [chunk.sequence for chunk in plan.chunks if chunk.yields_token]
        token_ids = sample_rows(
            output.logits,
            [sequence.request.sampling for sequence in yielding],
            [len(sequence.output_ids) for sequence in yielding],
        )
        broken = [
            chunk.sequence
            for chunk, is_finite in zip(plan.chunks, output.is_finite, strict=True)
            if not is_finite
        ]
        events.extend(self._break_off(sequence) for sequence in broken)
        for sequence, token_id in zip(yielding, token_ids, strict=True):
            if sequence not in broken:
                events.extend(self._accept(sequence, token_id))
        self._last_step = StepStats(
            batch_size=len(plan.chunks), num_tokens=sum(c.num_tokens for c in plan.chunks)
        )
        return events

    def stats(self) -> StepStats:
        """The last step, and the state it left."""
        return StepStats(
            num_running=len(self._scheduler.running),
            num_waiting=len(self._scheduler.waiting),
            batch_size=self._last_step.batch_size,
            num_tokens=self._last_step.num_tokens,
            num_cached_tokens=sum(s.num_computed for s in self._scheduler.running),
            cache_capacity=self._runner.cache.capacity,
        )

    def check_integrity(self) -> None:
        """Assert that nothing is lost or held twice."""
        self._scheduler.check_integrity()

    def _sequences(self) -> Collection[Sequence]:
        return (*self._scheduler.running, *self._scheduler.waiting)

    def _accept(self, sequence: Sequence, token_id: int) -> list[Event]:
        """Append a chosen token; returns its event and the final one if it ends the answer."""
        if token_id in self._tokenizer.eos_token_ids:
            return [self._end(sequence, FinishReason.STOP)]
        sequence.output_ids.append(token_id)
        text, stopped = sequence.text.push(token_id)
        event = TokenGenerated(sequence.request_id, token_id, text)
        if stopped:
            self._scheduler.remove(sequence)
            return [event, Finished(sequence.request_id, FinishReason.STOP)]
        reason = sequence.limit_reached(self._runner.cache.max_tokens)
        return [event] if reason is None else [event, self._end(sequence, reason)]

    def _break_off(self, sequence: Sequence) -> Finished:
        """End a sequence whose numbers overflowed, and wipe them from its slot."""
        assert sequence.slot is not None, "only running sequences are computed"
        self._runner.cache.clear(sequence.slot)
        return self._end(sequence, FinishReason.ERROR, "the model's numbers are not finite")

    def _end(self, sequence: Sequence, reason: FinishReason, message: str = "") -> Finished:
        """Free what a sequence holds and say how it ended."""
        self._scheduler.remove(sequence)
        text, stopped = sequence.text.finish()
        if stopped and reason is FinishReason.LENGTH:
            reason = FinishReason.STOP
        return Finished(sequence.request_id, reason, text, message)
