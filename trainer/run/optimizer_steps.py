"""Optimizer steps: handed to the device, and read when it is time.

A step is launched, and settled when its loss and norm are read. On a CPU that is one after the
other; a GPU has the next step before the host reads what the last one came to
(``trainer.step.outcome``). Whatever looks at the run (an evaluation, samples, a checkpoint) settles
all steps first, and no step that was not settled is in the counters.
"""

import collections
import dataclasses
import threading
import time

import torch
from torch import Tensor

from trainer.data.datasets import Data
from trainer.recipe.step_plan import Plan, Window, is_due
from trainer.run.checkpoint import Checkpointer
from trainer.run.interrupt import Interrupt
from trainer.run.reporter import Report
from trainer.run.snapshot import Subject
from trainer.step.counters import Counters
from trainer.step.loss import BatchLoss, count_scored, passes
from trainer.step.loss_scale import INITIAL_SCALE
from trainer.step.optimizer import rates_at
from trainer.step.outcome import Launched, Reading
from trainer.step.precision import autocast, repeatable

MAX_SKIPPED_IN_A_ROW = 10
STEPS_AHEAD = 1
"""Steps that a GPU has in hand while the host reads the one before."""


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
    """``trainer.step.loss.batch_loss``, compiled or not."""
    data: Data
    checkpointer: Checkpointer
    report: Report
    interrupt: Interrupt
    reads_back: bool = True
    """Whether the host reads what a step came to before it launches the next."""
    is_compiled: bool = False
    """Whether the first step compiles code."""


class Steps:
    """Takes optimizer steps, one after the other, and counts them."""

    def __init__(self, parts: Parts, counters: Counters) -> None:
        self.parts = parts
        self.recipe = parts.subject.recipe
        self.plan = Plan(self.recipe)
        self.decoder = parts.subject.decoder
        self.device = parts.subject.device
        if parts.subject.precision == "float16" and counters.loss_scale is None:
            counters = dataclasses.replace(counters, loss_scale=INITIAL_SCALE)
        self.counters = counters
        """As of the last settled step."""
        self.micro_step = counters.micro_step
        """As of the last launched step."""
        self.weights_change = threading.RLock()
        """Held while weights or counters change."""
        self._under_way: collections.deque[Launched] = collections.deque()
        # A loss scale follows from the step before.
        reads_back = parts.reads_back or counters.loss_scale is not None
        self._steps_ahead = 0 if reads_back else STEPS_AHEAD
        self._must_compile = parts.is_compiled
        self._clock = 0.0
        self._is_reserved = False

    @property
    def last(self) -> int:
        """Last launched step in the recipe's unit."""
        return self.plan.step(self.micro_step)

    @property
    def next(self) -> Window | None:
        """What is to be launched next; ``None`` at the end of the run."""
        return self.plan.window(self.micro_step)

    def take(self, window: Window) -> None:
        """One step; raises ``Diverged`` if too many in a row were skipped.

        The step in which code is compiled is settled at once, and said before and after.
        """
        if not self._must_compile:
            self.launch(window)
            self.settle(self._steps_ahead)
            return
        started = time.perf_counter()
        self.parts.report.compiling(self.last)
        self.launch(window)
        self.settle()
        seconds = time.perf_counter() - started
        self.parts.report.note(f"compiled; the first step took {seconds:.1f} s")
        self._must_compile = False

    def poll(self) -> None:
        """Stop here if someone asked to."""
        if self.parts.interrupt.requested:
            raise StopRequested

    def launch(self, window: Window) -> None:
        """Hand one optimizer step to the device; nothing here waits for a value of it."""
        parts = self.parts
        if not self._under_way:
            self._clock = time.perf_counter()
        if window.phase_step == 0:
            peak = rates_at(self.recipe.optimizer, window.phase, 1.0)
            parts.report.phase(self.last, window.phase, peak)
        micro_batches = [parts.data.micro_batch(index) for index in window.micro_steps]
        tokens = count_scored(targets for _, targets in micro_batches)
        self.decoder.train()
        scale = self.counters.loss_scale
        factor = 1.0 if scale is None else scale / tokens
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        for index, (inputs, targets) in zip(window.micro_steps, micro_batches, strict=True):
            self.poll()
            loss += self._backward(index, inputs, targets, factor) / tokens
        rates = rates_at(self.recipe.optimizer, window.phase, window.factor)
        with self.weights_change:
            parts.subject.before_update()
            stepped = parts.subject.optimizer.step(rates, tokens * factor, loss)
            launched = Launched(
                micro_steps=len(micro_batches),
                tokens=tokens,
                rates=rates,
                reading=Reading(loss, stepped.norm, stepped.skipped),
            )
            self._under_way.append(launched)
            self.micro_step += launched.micro_steps
        parts.subject.optimizer.zero_grad()

    def settle(self, steps_ahead: int = 0) -> None:
        """Read what steps came to, and say so, until no more than so many are under way."""
        with self.weights_change:  # the rescuing thread settles, too
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
            with repeatable(self.device, wanted=self.recipe.deterministic):
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
