"""The training loop: optimizer steps, and between them evaluation, samples and checkpoints.

Everything it works on is handed to it; it knows no command line and reads no clock but for
speed and the time between checkpoints. What is due at a step is decided from the counters alone,
so a resumed run does at once what the stopped one still owed. Between two optimizer steps the
weights do not change, so a snapshot may be taken from another thread at any other time.

A step is launched, and settled when its loss and norm are read. On a CPU that is one after the
other; a GPU has the next step before the host reads what the last one came to
(``trainer.outcome``). Whatever looks at the run (an evaluation, samples, a checkpoint) settles
all steps first.
"""

import collections
import dataclasses
import enum
import threading
import time

import torch
from torch import Tensor

from trainer.checkpoint import Checkpointer
from trainer.data import Data
from trainer.evaluate import Evaluation, evaluate
from trainer.interrupt import Interrupt
from trainer.loss import BatchLoss, count_scored, passes
from trainer.loss_scale import INITIAL_SCALE
from trainer.optimizer import rates_at
from trainer.outcome import Launched, Reading
from trainer.plan import Plan, Window, is_due
from trainer.precision import autocast
from trainer.report import Report
from trainer.samples import sample_texts
from trainer.snapshot import Snapshot, Subject
from trainer.state import Counters

MAX_SKIPPED_IN_A_ROW = 10
STEPS_AHEAD = 1
"""Steps that a GPU has in hand while the host reads the one before."""


class Ending(enum.Enum):
    """How a call of ``Loop.run`` ended."""

    COMPLETE = "complete"
    LIMIT = "limit"
    INTERRUPTED = "interrupted"


class Diverged(RuntimeError):
    """Too many optimizer steps in a row had a loss or gradient that was not finite."""


class StopRequested(Exception):
    """Someone asked the process to stop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What the loop works on."""

    subject: Subject
    """The recipe and what it changes: weights and moments."""
    batch_loss: BatchLoss
    """``trainer.loss.batch_loss``, compiled or not."""
    data: Data
    checkpointer: Checkpointer
    report: Report
    interrupt: Interrupt
    reads_back: bool = True
    """Whether the host reads what a step came to before it launches the next."""
    is_compiled: bool = False
    """Whether the first step compiles code."""


class Loop:
    """Takes a run from its counters to its end, or as far as it may."""

    def __init__(self, parts: Parts, counters: Counters) -> None:
        self.parts = parts
        self.recipe = parts.subject.recipe
        self.plan = Plan(self.recipe)
        self.decoder = parts.subject.decoder
        self.device = self.decoder.lm_head.weight.device
        if parts.subject.precision == "float16" and counters.loss_scale is None:
            counters = dataclasses.replace(counters, loss_scale=INITIAL_SCALE)
        self.counters = counters
        """As of the last settled step."""
        self._micro_step = counters.micro_step
        """As of the last launched step."""
        self._under_way: collections.deque[Launched] = collections.deque()
        # A loss scale follows from the step before.
        reads_back = parts.reads_back or counters.loss_scale is not None
        self._steps_ahead = 0 if reads_back else STEPS_AHEAD
        self._clock = 0.0
        self._saved_at = self.step
        self._saved_time = time.monotonic()
        self._weights_change = threading.RLock()
        self._is_reserved = False

    @property
    def step(self) -> int:
        """Last launched step in the recipe's unit."""
        return self.plan.step(self._micro_step)

    def run(self, last_step: int | None = None) -> Ending:
        """Train until the recipe ends, ``last_step`` is reached or someone asks to stop.

        The last completed step is published before this returns.

        Raises:
            Diverged: too many steps in a row could not be used; nothing is saved.
            OSError: the last step could not be saved.

        """
        self.parts.interrupt.rescue = self._rescue
        try:
            ending = self._train_and_observe(last_step)
        except StopRequested:
            ending = Ending.INTERRUPTED
        if not self.parts.interrupt.claim():
            threading.Event().wait()  # the rescuer is saving and ends the process
        self._save()
        self.parts.checkpointer.finish()
        return ending

    def _train_and_observe(self, last_step: int | None) -> Ending:
        self._observe()
        is_first = True
        while (window := self.plan.window(self._micro_step)) is not None:
            if last_step is not None and self.step >= last_step:
                return Ending.LIMIT
            self._poll()
            if is_first and self.parts.is_compiled:
                self._compile(window)
            else:
                self._launch(window)
                self._settle(self._steps_ahead)
            is_first = False
            self._observe()
        return Ending.COMPLETE

    def _compile(self, window: Window) -> None:
        """The step in which code is compiled, said before and after."""
        started = time.perf_counter()
        self.parts.report.compiling(self.step)
        self._launch(window)
        self._settle()
        self.parts.report.note(
            f"compiled; the first step took {time.perf_counter() - started:.1f} s"
        )

    def _poll(self) -> None:
        if self.parts.interrupt.requested:
            raise StopRequested

    def _launch(self, window: Window) -> None:
        """Hand one optimizer step to the device; nothing here waits for a value of it."""
        parts = self.parts
        if not self._under_way:
            self._clock = time.perf_counter()
        if window.phase_step == 0:
            peak = rates_at(self.recipe.optimizer, window.phase, 1.0)
            parts.report.phase(self.step, window.phase, peak)
        micro_batches = [parts.data.micro_batch(index) for index in window.micro_steps]
        tokens = count_scored(targets for _, targets in micro_batches)
        self.decoder.train()
        scale = self.counters.loss_scale
        factor = 1.0 if scale is None else scale / tokens
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        for index, (inputs, targets) in zip(window.micro_steps, micro_batches, strict=True):
            self._poll()
            loss += self._backward(index, inputs, targets, factor) / tokens
        rates = rates_at(self.recipe.optimizer, window.phase, window.factor)
        with self._weights_change:
            parts.subject.before_update()
            stepped = parts.subject.optimizer.step(rates, tokens * factor, loss)
            launched = Launched(
                micro_steps=len(micro_batches),
                tokens=tokens,
                rates=rates,
                reading=Reading(loss, stepped.norm, stepped.skipped),
            )
            self._under_way.append(launched)
            self._micro_step += launched.micro_steps
        parts.subject.optimizer.zero_grad()

    def _settle(self, steps_ahead: int = 0) -> None:
        """Read what steps came to, and say so, until no more than so many are under way."""
        with self._weights_change:  # the rescuing thread settles, too
            while len(self._under_way) > steps_ahead:
                self._settle_one(self._under_way.popleft())

    def _settle_one(self, launched: Launched) -> None:
        """Count a step; a loss or gradient that is not finite has left the weights alone."""
        values, before = launched.reading.wait(), self.plan.step(self.counters.micro_step)
        counters = self.counters.after_step(
            micro_steps=launched.micro_steps,
            tokens=launched.tokens,
            loss=values.loss,
            skipped=values.skipped,
        )
        now = time.perf_counter()
        seconds = counters.train_seconds + now - self._clock
        self._clock = now
        self.counters = dataclasses.replace(counters, train_seconds=seconds)
        step = self.plan.step(self.counters.micro_step)
        if values.skipped:
            self._skipped(step)
            return
        if not self._is_reserved:  # the moments are there now
            self.parts.subject.reserve()
            self._is_reserved = True
        if is_due(self.recipe.cadence.log_every, before, step):
            self.parts.report.trained(
                step,
                self.counters,
                loss=values.loss,
                gradient_norm=values.gradient_norm,
                rates=launched.rates,
            )

    def _backward(self, index: int, inputs: Tensor, targets: Tensor, factor: float) -> Tensor:
        """Add the gradients of a micro-batch's summed loss times a factor; the loss in nats, []."""
        parts = self.parts
        # Dropout is a function of (seed, index), as the data are: nothing to save, nothing to skip.
        torch.manual_seed((self.recipe.seed << 32) + index)
        nats = torch.zeros((), dtype=torch.float64, device=self.device)
        for rows, wanted in passes(self._to_device(inputs), self._to_device(targets)):
            with autocast(parts.subject.precision, self.device):
                total = parts.batch_loss(self.decoder, rows, wanted)
            total.backward(torch.full_like(total, factor))  # type: ignore[no-untyped-call]
            nats += total.detach()
        return nats

    def _to_device(self, tokens: Tensor) -> Tensor:
        """Tokens beside what the device computes: from pinned memory no copy waits for it."""
        if self.device.type != "cuda":
            return tokens.to(self.device)
        return tokens.pin_memory().to(self.device, non_blocking=True)

    def _skipped(self, step: int) -> None:
        self.parts.report.skipped(step, self.counters)
        if self.counters.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise Diverged(
                f"step {step}: loss or gradient was not finite {MAX_SKIPPED_IN_A_ROW} times "
                f"in a row; lower the learning rate. The last good checkpoint is untouched"
            )

    def _observe(self) -> None:
        """Do what is due at this step: evaluation, samples, a checkpoint."""
        cadence, step = self.recipe.cadence, self.step
        is_end = self._micro_step >= self.plan.num_micro_steps
        owes_last = is_end and self.counters.evaluated_at != step
        if owes_last or is_due(cadence.eval_every, self.counters.evaluated_at, step):
            self._evaluate(is_end=is_end)
        if is_due(cadence.sample_every, self.counters.sampled_at, step):
            self._sample()
        self.parts.checkpointer.poll()
        if not is_end and self._is_checkpoint_due():
            self._save()

    def _is_checkpoint_due(self) -> bool:
        cadence = self.recipe.cadence
        if is_due(cadence.checkpoint_every, self._saved_at, self.step):
            return True
        if cadence.checkpoint_seconds is None or self.parts.checkpointer.is_writing:
            return False
        waited = time.monotonic() - self._saved_time
        return self.step > self._saved_at and waited >= cadence.checkpoint_seconds

    def _evaluate(self, *, is_end: bool) -> None:
        """Score the same text every time, so that losses compare; at the end report all of it."""
        self._settle()
        eval_tokens = self.recipe.cadence.eval_tokens
        measured = [self._score(limit) for limit in (eval_tokens, None)[: 1 + is_end]]
        self.counters = self.counters.after_evaluation(self.step, measured[0][0])
        for evaluation, seconds in measured:
            self.parts.report.evaluated(self.step, self.counters, evaluation, seconds)

    def _score(self, max_tokens: int | None) -> tuple[Evaluation, float]:
        """A measurement on held-out text, and how many seconds it took."""
        parts, started = self.parts, time.perf_counter()
        evaluation = evaluate(
            self.decoder,
            parts.data.validation(max_tokens),
            parts.data.token_bytes,
            precision=parts.subject.precision,
            poll=self._poll,
        )
        return evaluation, time.perf_counter() - started

    def _sample(self) -> None:
        self._settle()
        parts = self.parts
        samples = list(
            sample_texts(
                self.decoder,
                parts.data.tokenizer,
                self.recipe.sample_prompts,
                max_new_tokens=self.recipe.cadence.sample_tokens,
                seed=self.recipe.seed + self.step,
                poll=self._poll,
            )
        )
        for sample in samples:
            parts.report.sampled(self.step, sample)
        self.counters = dataclasses.replace(self.counters, sampled_at=self.step)

    def _save(self) -> None:
        """Hand the last completed step to the checkpointer, unless it has it already."""
        if self.step == self._saved_at:
            return
        self._settle()  # a wait in which the device trains
        started = time.perf_counter()
        self.parts.checkpointer.save(self._snapshot)
        self._saved_time = time.monotonic()
        self.parts.report.saving(self.step, time.perf_counter() - started)

    def _snapshot(self) -> Snapshot:
        with self._weights_change:
            self._settle()
            self._saved_at = self.step
            return self.parts.subject.snapshot(self.counters)

    def _rescue(self) -> None:
        """Save from another thread, while the loop's own is deep in a long computation."""
        self.parts.checkpointer.save(self._snapshot)
        self.parts.checkpointer.finish()
        self.parts.report.note(
            f"interrupted in a long step; it is saved at step {self._saved_at:,}"
        )
