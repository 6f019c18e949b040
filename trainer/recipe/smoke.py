"""Any recipe scaled down (``--smoke``), so that its whole path runs in seconds on a CPU.

What there is stays: every phase, stage, schedule, cadence and switch, grouped heads, accumulation,
precision, activation checkpointing. What is large becomes small in proportion, and never nothing.
Positions in the run (stages, milestones) move with the phase that they lie in, so a stage that
begins with a phase still does. The tokenizer is trained on the slices of text that are left.
Compilation alone is left out: it takes longer than all the rest.
"""

import bisect
import itertools
from typing import Any

from lm.model.config import ModelConfig
from trainer.recipe.schema import Recipe
from trainer.recipe.sections import BatchConfig, PhaseConfig, StageConfig

SUFFIX = "-smoke"
STEPS = 24
"""Steps of the whole run, about, in the recipe's unit."""
_PHASE_STEPS = 3
"""Least steps of a phase: odd, so that an accumulation window is cut short."""
_LAYERS = 2
_HEAD_DIM = 16
_LENGTH = 16
_EVERY = 2
_EVAL_TOKENS = 64
_SAMPLE_TOKENS = 4
_VOCAB_SIZE = 320
_MAX_BYTES = 20_000


def scaled_down(recipe: Recipe) -> Recipe:
    """The recipe in small, as ``<name>-smoke``; raises ``ValueError`` if it cannot be."""
    clock = _Clock(recipe)
    values = recipe.to_dict()
    phases = [_phase(*indexed, clock) for indexed in enumerate(recipe.all_phases)]
    values |= {
        "name": recipe.name + SUFFIX,
        "model": _model(recipe.model, recipe.batch.length).to_dict(),
        "tokenizer": {"source": "train", "vocab_size": _VOCAB_SIZE},
        "sources": [
            source.model_dump(mode="json")
            | {"max_bytes": min(source.max_bytes or _MAX_BYTES, _MAX_BYTES)}
            for source in recipe.sources
        ],
        "stages": _stages(recipe.stages, clock),
        "batch": _batch(recipe.batch).model_dump(),
        "phases": phases[: len(recipe.phases)],
        "extension": phases[len(recipe.phases) :],
        "cadence": _cadence(values["cadence"], clock),
        "retention": _retention(values["retention"], clock),
        "compile": False,
    }
    return Recipe.from_dict(values)


class _Clock:
    """Positions in a recipe's run as positions in its small copy."""

    def __init__(self, recipe: Recipe) -> None:
        lengths = [phase.steps for phase in recipe.all_phases]
        self.share = STEPS / sum(lengths)
        self._starts = list(itertools.accumulate(lengths, initial=0))
        small = [self.steps(length, at_least=_PHASE_STEPS) for length in lengths]
        self._small_starts = list(itertools.accumulate(small, initial=0))
        counts_micro = recipe.unit == "micro"
        self._window = recipe.batch.grad_accum_steps if counts_micro else 1
        self._small_window = _batch(recipe.batch).grad_accum_steps if counts_micro else 1

    def steps(self, steps: int, *, at_least: int = 1) -> int:
        """A number of steps in the recipe's unit."""
        return max(at_least, round(steps * self.share))

    def position(self, step: int) -> int:
        """A step of the run, which stays in its phase; one past the run's end stays past it."""
        if (beyond := step - self._starts[-1]) >= 0:
            return self._small_starts[-1] + round(beyond * self.share)
        phase = max(bisect.bisect_right(self._starts, step), 1) - 1
        length = self._starts[phase + 1] - self._starts[phase]
        small = self._small_starts[phase + 1] - self._small_starts[phase]
        return self._small_starts[phase] + round((step - self._starts[phase]) * small / length)

    def schedule_step(self, phase: int, first_step: int, step: int) -> int:
        """An optimizer step of the schedule that a phase enters at its ``first_step``."""
        origin = self._starts[phase] - first_step * self._window
        distance = self.position(origin + step * self._window) - self.position(origin)
        return max(1, round(distance / self._small_window)) if step else 0


def _model(config: ModelConfig, length: int) -> ModelConfig:
    """Fewer and narrower layers; head groups, MLP width and context keep their ratios."""
    key_value_heads = max(1, config.num_key_value_heads // 3)
    heads = key_value_heads * (config.num_attention_heads // config.num_key_value_heads)
    hidden_size = heads * min(_HEAD_DIM, config.head_dim)
    inner = hidden_size * config.intermediate_size // config.hidden_size
    context = config.max_position_embeddings * min(_LENGTH, length) // length
    values = config.to_dict() | {
        "vocab_size": _VOCAB_SIZE,
        "hidden_size": hidden_size,
        "intermediate_size": max(1, inner),
        "num_hidden_layers": min(_LAYERS, config.num_hidden_layers),
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "max_position_embeddings": max(1, context),
    }
    return ModelConfig.from_dict(values)


def _batch(batch: BatchConfig) -> BatchConfig:
    return BatchConfig(
        micro_batch=min(2, batch.micro_batch),
        length=min(_LENGTH, batch.length),
        grad_accum_steps=min(2, batch.grad_accum_steps),
    )


def _phase(index: int, phase: PhaseConfig, clock: _Clock) -> dict[str, Any]:
    values = phase.model_dump(mode="json")
    values["steps"] = clock.steps(phase.steps, at_least=_PHASE_STEPS)
    first_step = phase.schedule.first_step
    for name in ("warmup_steps", "decay_start", "horizon", "first_step"):
        step = values["schedule"][name]
        if step is not None:
            values["schedule"][name] = clock.schedule_step(index, first_step, step)
    return values


def _stages(stages: tuple[StageConfig, ...], clock: _Clock) -> list[dict[str, Any]]:
    """Each stage where it lies in its phase, at least one step after the one before."""
    first_steps = [clock.position(stage.first_step) for stage in stages]
    apart = itertools.accumulate(first_steps, lambda before, step: max(before + 1, step))
    return [
        stage.model_dump(mode="json") | {"first_step": step}
        for stage, step in zip(stages, apart, strict=True)
    ]


def _cadence(values: dict[str, Any], clock: _Clock) -> dict[str, Any]:
    small = {
        name: clock.steps(value, at_least=_EVERY)
        for name, value in values.items()
        if name.endswith("_every")
    }
    seconds = values["checkpoint_seconds"]
    return small | {
        "log_every": 1,
        "checkpoint_seconds": seconds and seconds * clock.share,
        "eval_tokens": min(_EVAL_TOKENS, values["eval_tokens"]),
        "sample_tokens": min(_SAMPLE_TOKENS, values["sample_tokens"]),
    }


def _retention(values: dict[str, Any], clock: _Clock) -> dict[str, Any]:
    return values | {
        "keep_every": values["keep_every"] and clock.steps(values["keep_every"]),
        "keep_steps": sorted({clock.position(step) for step in values["keep_steps"]}),
    }
