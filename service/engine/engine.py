"""One model's loop: schedule → forward → sample → events. Knows no clock and no thread."""

import dataclasses
import itertools
from collections.abc import Collection, Iterable

from lm.sampling import SamplingParams
from lm.text.tokenizer import Tokenizer
from service.engine.phase_timer import Laps
from service.engine.pytorch.runner import StepCache, StepOutput, StepRunner
from service.engine.request import (
    Event,
    FinishReason,
    GenerationRequest,
    Started,
    StepStats,
)
from service.engine.request_faults import must_pass
from service.engine.sampling.rows import draw_apart
from service.engine.scheduling.plan import Chunk, Plan
from service.engine.scheduling.prefill_pace import Pace
from service.engine.scheduling.scheduler import Scheduler
from service.engine.scheduling.sequence import Sequence
from service.engine.scheduling.slots import SlotPool
from service.engine.speculation.planner import Speculation
from service.engine.step_events import Answers
from service.engine.step_in_parts import compute
from service.engine.structure.grammars import Grammars


class Engine:
    """Serves the requests of one set of weights until they are done."""

    is_late = False
    """Whether the device may still compute a step when the next one is scheduled."""

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
        chunk_s: float | None = None,
    ) -> None:
        """``slots`` where the cache is shared with another model's engine.

        ``chunk_s`` bounds what prompts add to a step that streams wait for, in seconds as whoever
        steps it tells ``observe``; by default nothing but the tokens of a step does.
        """
        self._tokenizer = tokenizer
        self.grammars = Grammars(tokenizer)
        self._runner = runner
        self._pace = None if chunk_s is None else Pace(chunk_s)
        self._scheduler = Scheduler(
            num_slots=runner.cache.num_slots,
            max_step_tokens=max_step_tokens,
            reuse_prefixes=reuse_prefixes,
            slots=slots,
            pace=self._pace,
            is_late=self.is_late,
        )
        self._answers = Answers(self._scheduler, runner.cache.max_tokens)
        self._computed: tuple[Chunk, ...] = ()
        """What the last step gave, whose duration ``observe`` is told."""
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
        """Queue a request; raises ``RequestRefused`` if it has ids that the model has not."""
        self._scheduler.add(self._begin(request))

    def _begin(self, request: GenerationRequest) -> Sequence:
        vocab_size = self._runner.config.vocab_size
        request.check(vocab_size)
        constraint = None
        if request.grammar is not None:
            room = self._runner.cache.max_tokens - len(request.prompt_ids)
            budget = min(request.max_new_tokens, room)
            constraint = self.grammars.begin(request.grammar, budget, request.prepared)
        sequence = Sequence(request, self._tokenizer, constraint)
        sequence.end_ids = tuple(one for one in sequence.end_ids if one < vocab_size)
        return sequence

    def finish(self, request_id: str, reason: FinishReason) -> list[Event]:
        """End a request from outside; nothing if it has already ended."""
        sequence = self._scheduler.find(request_id)
        return [] if sequence is None else [self._answers.end(sequence, reason)]

    def finish_all(self, reason: FinishReason, message: str = "") -> list[Event]:
        """End every request."""
        return [self._answers.end(sequence, reason, message) for sequence in self._sequences()]

    def expire(self, now: float) -> list[Event]:
        """End the requests whose deadline has passed."""
        return [
            self._answers.end(sequence, FinishReason.TIMEOUT)
            for sequence in self._sequences()
            if sequence.request.deadline is not None and sequence.request.deadline <= now
        ]

    def step(self) -> list[Event]:
        """Compute one plan; empty if there is nothing to do."""
        plan = self._scheduler.schedule()
        self._last_step, self._computed = StepStats(), ()
        if plan is None:
            return []
        if self._speculation is not None:
            plan = self._speculation.extend(plan)
        events = self._start(plan.started)
        plan, lost = self._copy(plan)
        events += lost
        self._laps.lap("scheduling")
        num_accepted = 0
        for part, output in compute(self._runner.run, plan) if plan.chunks else ():
            self._laps.computed(self._runner)
            if isinstance(output, StepOutput):
                events += self._take_over(part, output)
            else:
                events += [self._answers.fail(chunk.sequence, output) for chunk in part.chunks]
            for chunk in part.chunks:
                num_accepted += max(0, chunk.sequence.num_computed - chunk.end + len(chunk.draft))
            self._laps.lap("making text and events")
        self._computed = plan.chunks
        self._last_step = dataclasses.replace(stats_of(plan), num_accepted_tokens=num_accepted)
        return events

    def observe(self, seconds: float) -> None:
        """Learn how long the last step took."""
        if self._pace is None or not self._computed:
            return
        prompts = [chunk for chunk in self._computed if chunk.num_tokens > 1]
        if any(chunk.draft for chunk in prompts):  # guesses go with no prompt
            return
        num_tokens = {False: 0, True: 0}
        for chunk in prompts:
            num_tokens[chunk.sequence.request.prompt_logprobs is not None] += chunk.num_tokens
        num_decoding = len(self._computed) - len(prompts)
        self._pace.observe(num_decoding, num_tokens[False], num_tokens[True], seconds)

    def _start(self, sequences: Iterable[Sequence]) -> list[Event]:
        """Say of sequences that got a slot that they have begun, if it is their first."""
        events: list[Event] = []
        for sequence in sequences:
            if not sequence.has_started:
                sequence.has_started = True
                events.append(Started(sequence.request_id, sequence.num_computed))
        return events

    def _copy(self, plan: Plan) -> tuple[Plan, list[Event]]:
        """Copy what newcomers share; the plan without those for whom it failed, and their ends."""
        lost: dict[int | None, BaseException] = {}
        for target, source, num_tokens in plan.copies:
            if source in lost:
                lost[target] = lost[source]
                continue
            try:
                self._runner.cache.copy(source, target, num_tokens)
            except BaseException as error:
                if must_pass(error):
                    raise
                lost[target] = error
        if not lost:
            return plan, []
        left = tuple(chunk for chunk in plan.chunks if chunk.slot not in lost)
        started = tuple(one for one in plan.started if one.slot not in lost)
        unlucky = [(one, lost[one.slot]) for one in plan.started if one.slot in lost]
        events: list[Event] = [self._answers.fail(*one) for one in unlucky]
        return Plan(left, started), events

    def _take_over(self, plan: Plan, output: StepOutput) -> list[Event]:
        """Draw, and take over what each chunk gave."""
        drawn = draw_apart(output.logits, plan)
        self._laps.lap("drawing tokens")
        events: list[Event] = []
        end = 0
        for chunk, token_ids, is_finite in zip(plan.chunks, drawn, output.is_finite, strict=True):
            row, end = end, end + chunk.num_logits
            if not is_finite:
                events += self._break_off(chunk)
            elif isinstance(token_ids, BaseException):
                events.append(self._answers.fail(chunk.sequence, token_ids))
            else:
                first_draw = end - chunk.num_draws
                try:
                    made = self._answers.score_prompt(chunk, output.logits, row)
                    made += self._answers.accept(chunk, token_ids, output.logits, first_draw)
                except BaseException as error:
                    if must_pass(error):
                        raise
                    made = [self._answers.fail(chunk.sequence, error)]
                events += made
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

    def _break_off(self, chunk: Chunk) -> list[Event]:
        """Wipe numbers that overflowed from a slot, and end their sequence.

        Where guesses may be at fault, it goes on without any.
        """
        end = max(chunk.end, chunk.sequence.num_computed)
        self._runner.cache.clear(chunk.slot, chunk.start, end)
        if chunk.draft and self._speculation is not None:
            self._speculation.give_up(chunk.sequence)
            return []
        return [
            self._answers.end(
                chunk.sequence, FinishReason.ERROR, "the model's numbers are not finite"
            )
        ]


def stats_of(plan: Plan) -> StepStats:
    """What a plan computes."""
    return StepStats(
        batch_size=len(plan.chunks),
        num_tokens=sum(chunk.num_tokens for chunk in plan.chunks),
        num_draft_tokens=sum(len(chunk.draft) for chunk in plan.chunks if chunk.draft),
    )
