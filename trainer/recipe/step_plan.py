"""Where a run's optimizer steps lie, as pure arithmetic over its recipe.

The one fact about a run's position is its micro-step, the number of micro-batches trained on.
Everything else follows from it: the phase, the step of the phase's schedule, the micro-batches
of the next optimizer step, and the step in the recipe's own unit. An accumulation window that a
phase's end cuts short is flushed with the micro-batches it has.
"""

import bisect
import dataclasses
import itertools

from trainer.recipe.schedule import factor
from trainer.recipe.schema import Recipe
from trainer.recipe.sections import PhaseConfig


@dataclasses.dataclass(frozen=True)
class Window:
    """The micro-batches of one optimizer step, and where in its phase the step lies."""

    phase: PhaseConfig
    phase_step: int
    """Optimizer steps taken before this one in the phase."""
    horizon: int
    """Optimizer steps over which the phase's schedule is laid out."""
    micro_steps: range
    """Micro-batches, counted over the run."""

    @property
    def factor(self) -> float:
        """Share of the phase's peak learning rate."""
        schedule = self.phase.schedule
        return factor(schedule, schedule.first_step + self.phase_step, self.horizon)


class Plan:
    """All optimizer steps of a recipe, by the micro-step at which they start."""

    def __init__(self, recipe: Recipe) -> None:
        self.phases = recipe.all_phases
        self.unit = recipe.unit
        self.accumulation = recipe.batch.grad_accum_steps
        per_step = self.accumulation if self.unit == "optimizer" else 1
        lengths = [phase.steps * per_step for phase in self.phases]
        self._starts = list(itertools.accumulate(lengths, initial=0))
        """First micro-step of each phase, and the end of the last."""

    @property
    def num_micro_steps(self) -> int:
        """Micro-batches of the whole run."""
        return self._starts[-1]

    @property
    def num_steps(self) -> int:
        """Length of the whole run in the recipe's unit."""
        return self.step(self.num_micro_steps)

    @property
    def horizons(self) -> tuple[int, ...]:
        """Optimizer steps that each phase's schedule is laid out over."""
        return tuple(
            phase.schedule.horizon or phase.schedule.first_step + self.optimizer_steps_of(index)
            for index, phase in enumerate(self.phases)
        )

    def has_step_at(self, micro_step: int) -> bool:
        """Whether a micro-step ends an optimizer step, or is the run's beginning."""
        if micro_step >= self.num_micro_steps:
            return micro_step == self.num_micro_steps
        start = self._starts[self._phase_index(micro_step)]
        return (micro_step - start) % self.accumulation == 0

    def window(self, micro_step: int) -> Window | None:
        """The optimizer step that starts at a micro-step; ``None`` at the end of the run."""
        if micro_step >= self.num_micro_steps:
            return None
        index = self._phase_index(micro_step)
        phase, start = self.phases[index], self._starts[index]
        phase_step, rest = divmod(micro_step - start, self.accumulation)
        assert rest == 0, "micro_step lies inside an accumulation window"
        end = min(micro_step + self.accumulation, self._starts[index + 1])
        return Window(phase, phase_step, self.horizons[index], range(micro_step, end))

    def optimizer_step(self, micro_step: int) -> int:
        """Optimizer steps taken when a micro-step that ends a window is reached."""
        if micro_step >= self.num_micro_steps:
            return sum(map(self.optimizer_steps_of, range(len(self.phases))))
        index = self._phase_index(micro_step)
        before = sum(map(self.optimizer_steps_of, range(index)))
        return before + (micro_step - self._starts[index]) // self.accumulation

    def step(self, micro_step: int) -> int:
        """Position in the recipe's unit."""
        return self.optimizer_step(micro_step) if self.unit == "optimizer" else micro_step

    def optimizer_steps_of(self, index: int) -> int:
        """Optimizer steps of one phase."""
        length = self._starts[index + 1] - self._starts[index]
        return -(-length // self.accumulation)

    def _phase_index(self, micro_step: int) -> int:
        return bisect.bisect_right(self._starts, micro_step) - 1


def is_due(every: int, before: int, now: int) -> bool:
    """Whether a multiple of ``every`` was reached on the way from step ``before`` to ``now``."""
    return now // every > before // every
