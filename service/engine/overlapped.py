"""The loop of an engine whose device runs one step ahead of the host.

Step n + 1 is launched before the tokens of step n are read: the device feeds each drawn token back
to itself, so that it never waits for Python. What the host decides takes effect one step later: a
sequence that has stopped is computed once more, and nobody sees that token. A sequence whose next
step depends on what the host makes of its last token (a grammar, guesses) sits out a step instead.
"""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence as Items
from typing import Protocol

from torch import Tensor

from lm.text.tokenizer import Tokenizer
from service.engine.engine import Engine, stats_of
from service.engine.phase_timer import Laps
from service.engine.pytorch.runner import StepRunner
from service.engine.request import Event, GenerationRequest, StepStats
from service.engine.request_faults import must_pass
from service.engine.scheduling.plan import Chunk, Plan
from service.engine.scheduling.sequence import Sequence
from service.engine.scheduling.slots import SlotPool
from service.engine.speculation.planner import Speculation

MAX_GUESSED_ROWS = 64
"""Rows of a step with guesses; a GPU's step of as many rows costs little more than one of a few."""


class StepResult(Protocol):
    """What a launched plan gave, chunk by chunk in the plan's order."""

    token_ids: Items[Items[int]]
    """The drawn tokens of each chunk."""
    is_finite: Items[bool]
    """Whether the hidden states that each chunk's draws were made from are finite."""

    faults: Mapping[int, BaseException]
    """Why there is nothing of a chunk whose tokens are drawn on the host."""

    def logits(self, chunk: int) -> Tensor:
        """Logits [``num_logits``, V] of a chunk that asked for scores or is drawn on the host."""
        ...


class Launched(Protocol):
    """A plan that the device is computing."""

    def collect(self) -> StepResult:
        """Wait for the device; called once."""
        ...


class DeviceRunner(StepRunner, Protocol):
    """A runner that draws and feeds tokens back by itself."""

    @property
    def slots(self) -> SlotPool:
        """This model's share of the slots of the cache."""
        ...

    def draws_on_host(self, sequence: Sequence) -> bool:
        """Whether a sequence's tokens can only be drawn on the host."""
        ...

    def launch(self, plan: Plan) -> Launched:
        """Begin to compute a plan; what was launched before is computed before."""
        ...

    def warm_up(self) -> None:
        """Run every kind of step once, in the slot that no sequence gets."""
        ...

    def alone(self) -> "DeviceRunner":
        """A runner over the same weights whose only slot is that one."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class _InFlight:
    """A launched plan, and what its chunks were when it was launched."""

    chunks: tuple[Chunk, ...]
    num_draws: tuple[int, ...]
    launched: Launched


class OverlappedEngine(Engine):
    """Serves the requests of one set of weights, the device one step ahead.

    A launch or a step that fails as a whole cannot be done again in parts, since the device has
    counted and fed back some of its tokens: it ends the sequences that it was for, after the
    tokens of the step before, and the queue goes on.
    """

    is_late = True

    def __init__(
        self,
        runner: DeviceRunner,
        tokenizer: Tokenizer,
        *,
        max_step_tokens: int,
        reuse_prefixes: bool = True,
        speculation: bool = True,
        laps: Laps | None = None,
        chunk_s: float | None = None,
    ) -> None:
        super().__init__(
            runner,
            tokenizer,
            max_step_tokens=max_step_tokens,
            reuse_prefixes=reuse_prefixes,
            speculation=False,
            laps=laps,
            slots=runner.slots,
            chunk_s=chunk_s,
        )
        self._device = runner
        self._max_step_tokens = max_step_tokens
        self._max_model_tokens = runner.cache.max_tokens
        if speculation:
            self._speculation = Speculation(
                max_model_tokens=runner.cache.max_tokens,
                max_step_tokens=max_step_tokens,
                max_rows=MAX_GUESSED_ROWS,
                guesses_adjusted=False,
            )
        self._in_flight: _InFlight | None = None

    def warm_up(self) -> None:
        """Run every kind of step once; call before the first ``submit``."""
        self._device.warm_up()

    def alone(self) -> Engine:
        """Another engine, whose only slot is the one that no sequence gets."""
        return OverlappedEngine(
            self._device.alone(),
            self._tokenizer,
            max_step_tokens=self._max_step_tokens,
            speculation=False,
        )

    def _begin(self, request: GenerationRequest) -> Sequence:
        sequence = super()._begin(request)
        sequence.must_be_read = self._device.draws_on_host(sequence)
        sequence.wants_logits |= sequence.must_be_read
        return sequence

    def step(self) -> list[Event]:
        """Launch one plan and take over what the one before gave; empty if there is neither."""
        previous, self._in_flight = self._in_flight, None
        plan = self._scheduler.schedule(self._is_held)
        self._last_step, self._computed = StepStats(), ()
        events: list[Event] = []
        fault: BaseException | None = None
        if plan is not None:
            if self._speculation is not None:
                plan = self._speculation.extend(plan)
            events += self._start(plan.started)
            plan, lost = self._copy(plan)
            events += lost
            try:
                self._launch(plan)
            except BaseException as error:
                if must_pass(error):
                    raise
                fault = error
        if previous is not None:
            events += self._collect(previous)
            self._computed = previous.chunks
        if plan is not None and fault is not None:
            events += self._fail_all([chunk.sequence for chunk in plan.chunks], fault)
            events += self._fail_all(plan.started, fault)
        return events

    def _is_held(self, sequence: Sequence) -> bool:
        """Whether a sequence sits this step out: until its tokens are read, or for good."""
        if not sequence.num_pending:
            return False
        if sequence.must_be_read or sequence.will_end(self._max_model_tokens):
            return True
        return self._speculation is not None and self._speculation.awaits(
            sequence, len(self._scheduler.running)
        )

    def _launch(self, plan: Plan) -> None:
        """Hand a plan to the device, and take its sequences to where it will leave them."""
        num_draws = tuple(chunk.num_draws for chunk in plan.chunks)
        self._laps.lap("scheduling")
        self._in_flight = _InFlight(plan.chunks, num_draws, self._device.launch(plan))
        self._last_step = stats_of(plan)
        for (sequence, _, end, draft), draws in zip(plan.chunks, num_draws, strict=True):
            sequence.num_computed = end - len(draft)
            if draws:
                sequence.num_pending += 1
            if draft:
                sequence.must_be_read = True
        self._laps.lap("launching")

    def _collect(self, previous: _InFlight) -> list[Event]:
        """Take over the tokens of the step before, of sequences that have not ended meanwhile."""
        try:
            result = previous.launched.collect()
        except BaseException as error:
            if must_pass(error):
                raise
            return self._fail_all([chunk.sequence for chunk in previous.chunks], error)
        self._laps.lap("waiting for the device")
        events: list[Event] = []
        num_accepted = 0
        rows = zip(previous.chunks, previous.num_draws, result.is_finite, strict=True)
        for number, (chunk, num_draws, is_finite) in enumerate(rows):
            sequence = chunk.sequence
            if sequence.slot is None:  # it ended after the launch
                continue
            if num_draws:
                sequence.num_pending -= 1
            if not is_finite:
                events += self._break_off(chunk)
                self._forget_guesses(chunk)
                continue
            try:
                events += self._read(chunk, number, num_draws, result)
            except BaseException as error:
                if must_pass(error):
                    raise
                events.append(self._answers.fail(sequence, error))
                continue
            if chunk.draft:
                num_accepted += max(0, sequence.num_computed - chunk.end + len(chunk.draft))
                self._go_on_alone(sequence)
        self._last_step = dataclasses.replace(self._last_step, num_accepted_tokens=num_accepted)
        self._laps.lap("making text and events")
        return events

    def _read(self, chunk: Chunk, number: int, num_draws: int, result: StepResult) -> list[Event]:
        """Take over what one chunk gave; raises why there is nothing."""
        sequence = chunk.sequence
        if num_draws == 1 and not (sequence.wants_logits or chunk.draft):  # most of them
            return self._answers.append(sequence, result.token_ids[number][0], None)
        if number in result.faults:
            raise result.faults[number]
        events: list[Event] = []
        if chunk.scores_prompt:
            events += self._answers.score_prompt(chunk, result.logits(number), 0)
        return events + self._take_over_draws(chunk, number, result)

    def _fail_all(self, sequences: Items[Sequence], error: BaseException) -> list[Event]:
        """End some sequences, those that have not ended yet."""
        left = [sequence for sequence in sequences if sequence.slot is not None]
        return [self._answers.fail(sequence, error) for sequence in left]

    def _forget_guesses(self, chunk: Chunk) -> None:
        """Go back to before a chunk whose guesses may be at fault, if its sequence goes on."""
        if chunk.draft and chunk.sequence.slot is not None:
            chunk.sequence.num_computed = chunk.start
            self._go_on_alone(chunk.sequence)

    def _go_on_alone(self, sequence: Sequence) -> None:
        """Let the device feed tokens back to a sequence whose guesses have been read."""
        sequence.must_be_read = self._device.draws_on_host(sequence)

    def _take_over_draws(self, chunk: Chunk, number: int, result: StepResult) -> list[Event]:
        """Append what a chunk's draws gave."""
        token_ids = result.token_ids[number]
        if not token_ids:
            return []
        needs_logits = chunk.sequence.request.logprobs is not None
        logits = result.logits(number)[-len(token_ids) :] if needs_logits else None
        if chunk.draft:
            return self._answers.accept(chunk, list(token_ids), logits, 0)
        return self._answers.append(
            chunk.sequence, token_ids[0], None if logits is None else logits[0]
        )
