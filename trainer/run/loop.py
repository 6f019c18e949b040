"""The training loop: optimizer steps, and between them evaluation, samples and checkpoints.

Everything it works on is handed to it; it knows no command line and reads no clock but for
speed and the time between checkpoints. What is due at a step is decided from the counters alone,
so a resumed run does at once what the stopped one still owed. Between two optimizer steps the
weights do not change, so a snapshot may be taken from another thread at any other time.
"""

import dataclasses
import enum
import threading
import time

from trainer.recipe.step_plan import is_due
from trainer.run.optimizer_steps import Parts, Steps, StopRequested
from trainer.run.snapshot import Snapshot
from trainer.step.counters import Counters
from trainer.step.evaluate import Evaluation, evaluate
from trainer.step.samples import sample_texts


class Ending(enum.Enum):
    """How a call of ``Loop.run`` ended."""

    COMPLETE = "complete"
    LIMIT = "limit"
    INTERRUPTED = "interrupted"


class Loop:
    """Takes a run from its counters to its end, or as far as it may."""

    def __init__(self, parts: Parts, counters: Counters) -> None:
        self.parts = parts
        self.recipe = parts.subject.recipe
        self.decoder = parts.subject.decoder
        self.steps = Steps(parts, counters)
        self._saved_at = self.step
        self._saved_time = time.monotonic()

    @property
    def step(self) -> int:
        """Last step in the recipe's unit."""
        return self.steps.last

    @property
    def counters(self) -> Counters:
        """As of the last settled step."""
        return self.steps.counters

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
        while (window := self.steps.next) is not None:
            if last_step is not None and self.step >= last_step:
                return Ending.LIMIT
            self.steps.poll()
            self.steps.take(window)
            self._observe()
        return Ending.COMPLETE

    def _observe(self) -> None:
        """Do what is due at this step: evaluation, samples, a checkpoint."""
        cadence, step = self.recipe.cadence, self.step
        is_end = self.steps.next is None
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
        self.steps.settle()
        eval_tokens = self.recipe.cadence.eval_tokens
        measured = [self._score(limit) for limit in (eval_tokens, None)[: 1 + is_end]]
        self.steps.counters = self.counters.after_evaluation(self.step, measured[0][0])
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
            poll=self.steps.poll,
        )
        return evaluation, time.perf_counter() - started

    def _sample(self) -> None:
        self.steps.settle()
        parts = self.parts
        samples = list(
            sample_texts(
                self.decoder,
                parts.data.tokenizer,
                self.recipe.sample_prompts,
                max_new_tokens=self.recipe.cadence.sample_tokens,
                seed=self.recipe.seed + self.step,
                poll=self.steps.poll,
            )
        )
        for sample in samples:
            parts.report.sampled(self.step, sample)
        self.steps.counters = dataclasses.replace(self.counters, sampled_at=self.step)

    def _save(self) -> None:
        """Hand the last completed step to the checkpointer, unless it has it already."""
        if self.step == self._saved_at:
            return
        self.steps.settle()  # a wait in which the device trains
        started = time.perf_counter()
        self.parts.checkpointer.save(self._snapshot)
        self._saved_time = time.monotonic()
        self.parts.report.saving(self.step, time.perf_counter() - started)

    def _snapshot(self) -> Snapshot:
        with self.steps.weights_change:
            self.steps.settle()
            self._saved_at = self.step
            return self.parts.subject.snapshot(self.counters)

    def _rescue(self) -> None:
        """Save from another thread, while the loop's own is deep in a long computation."""
        self.parts.checkpointer.save(self._snapshot)
        self.parts.checkpointer.finish()
        self.parts.report.note(
            f"interrupted in a long step; it is saved at step {self._saved_at:,}"
        )
