"""The training loop: optimizer steps, and between them evaluation, samples and checkpoints.

Everything it works on is handed to it; it knows no command line and reads no clock but for
speed and the time between checkpoints. What is due at a step is decided from the counters alone,
so a resumed run does at once what the stopped one still owed. Between two optimizer steps the
weights do not change, so a snapshot may be taken from another thread at any other time.
"""

import dataclasses
import enum
import math
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
from trainer.plan import Plan, Window, is_due
from trainer.precision import autocast
from trainer.report import Report
from trainer.samples import sample_texts
from trainer.snapshot import Snapshot, Subject
from trainer.state import Counters

MAX_SKIPPED_IN_A_ROW = 10


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
        self._saved_at = self.step
        self._saved_time = time.monotonic()
        self._weights_change = threading.Lock()
        self._is_reserved = False

    @property
    def step(self) -> int:
        """Last completed step in the recipe's unit."""
        return self.plan.step(self.counters.micro_step)

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
        while (window := self.plan.window(self.counters.micro_step)) is not None:
            if last_step is not None and self.step >= last_step:
                return Ending.LIMIT
            self._poll()
            self._train(window)
            self._observe()
        return Ending.COMPLETE

    def _poll(self) -> None:
        if self.parts.interrupt.requested:
            raise StopRequested

    def _train(self, window: Window) -> None:
        """One optimizer step; a loss or gradient that is not finite leaves the weights alone."""
        parts, started, before = self.parts, time.perf_counter(), self.step
        if window.phase_step == 0:
            peak = rates_at(self.recipe.optimizer, window.phase, 1.0)
            parts.report.phase(self.step, window.phase, peak)
        micro_batches = [parts.data.micro_batch(index) for index in window.micro_steps]
        tokens = count_scored(targets for _, targets in micro_batches)
        self.decoder.train()
        loss, scale = 0.0, self.counters.loss_scale
        factor = 1.0 if scale is None else scale / tokens
        for index, (inputs, targets) in zip(window.micro_steps, micro_batches, strict=True):
            self._poll()
            loss += self._backward(index, inputs, targets, factor) / tokens
        rates = rates_at(self.recipe.optimizer, window.phase, window.factor)
        with self._weights_change:
            usable = math.isfinite(loss)
            norm = parts.subject.optimizer.step(rates, divisor=tokens * factor) if usable else None
            counters = self.counters.after_step(
                micro_steps=len(micro_batches), tokens=tokens, loss=loss, skipped=norm is None
            )
            seconds = counters.train_seconds + time.perf_counter() - started
            self.counters = dataclasses.replace(counters, train_seconds=seconds)
            if norm is not None and not self._is_reserved:  # the moments are there now
                parts.subject.reserve()
                self._is_reserved = True
        parts.subject.optimizer.zero_grad()
        if norm is None:
            self._skipped()
        elif is_due(self.recipe.cadence.log_every, before, self.step):
            parts.report.trained(
                self.step, self.counters, loss=loss, gradient_norm=norm, rates=rates
            )

    def _backward(self, index: int, inputs: Tensor, targets: Tensor, factor: float) -> float:
        """Add the gradients of a micro-batch's summed loss times a factor; the loss in nats."""
        parts = self.parts
        # Dropout is a function of (seed, index), as the data are: nothing to save, nothing to skip.
        torch.manual_seed((self.recipe.seed << 32) + index)
        nats = 0.0
        for rows, wanted in passes(inputs.to(self.device), targets.to(self.device)):
            with autocast(parts.subject.precision, self.device):
                total = parts.batch_loss(self.decoder, rows, wanted)
            total.backward(torch.full_like(total, factor))  # type: ignore[no-untyped-call]
            nats += float(total.detach())
        return nats

    def _skipped(self) -> None:
        self.parts.report.skipped(self.step, self.counters)
        if self.counters.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise Diverged(
                f"step {self.step}: loss or gradient was not finite {MAX_SKIPPED_IN_A_ROW} times "
                f"in a row; lower the learning rate. The last good checkpoint is untouched"
            )

    def _observe(self) -> None:
        """Do what is due at this step: evaluation, samples, a checkpoint."""
        cadence, step = self.recipe.cadence, self.step
        is_end = self.counters.micro_step >= self.plan.num_micro_steps
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
        started = time.perf_counter()
        self.parts.checkpointer.save(self._snapshot)
        self._saved_time = time.monotonic()
        self.parts.report.saving(self.step, time.perf_counter() - started)

    def _snapshot(self) -> Snapshot:
        with self._weights_change:
            self._saved_at = self.step
            return self.parts.subject.snapshot(self.counters)

    def _rescue(self) -> None:
        """Save from another thread, while the loop's own is deep in a long computation."""
        self.parts.checkpointer.save(self._snapshot)
        self.parts.checkpointer.finish()
        self.parts.report.note(
            f"interrupted in a long step; it is saved at step {self._saved_at:,}"
        )
