"""What a run needs beside the weights to go on as if it had never stopped.

Moments as safetensors, counters and everything else as JSON: both open without a pickle. There
is no generator state and no data cursor to keep: batch i and the dropout of micro-batch i are
functions of (seed, i), so the micro-step says it all. Not here: how and when a snapshot becomes
a published step (``trainer.run.checkpoint``).
"""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import safetensors.torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from lm.volume import Step, VolumeError
from lm.volume.content import read_file
from lm.volume.publish import TextFile, Writer
from trainer.step.evaluate import Evaluation
from trainer.step.loss_scale import next_scale
from trainer.step.memorising import PATIENCE, shows_memorising
from trainer.step.precision import Precision

MOMENTS_FILE = "training_state.safetensors"
STATE_FILE = "training_state.json"
FORMAT_VERSION = 1

AVERAGE_SHARE = 0.02
"""Weight of the newest loss in the running average, about the last 50 steps; the first of
them are averaged evenly."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counters:
    """Where a run stands; every value is as of the last completed optimizer step."""

    micro_step: int = 0
    tokens_seen: int = 0
    skipped_steps: int = 0
    """Optimizer steps that a non-finite loss or gradient took no part in."""
    skipped_in_a_row: int = 0
    """Without those that a lower loss scale may cure."""
    loss_scale: float | None = None
    """What float16 losses are multiplied by; other precisions have none."""
    steps_at_scale: int = 0
    loss_average: float | None = None
    """Running average of the training loss, nats a token."""
    train_seconds: float = 0.0
    """Time in optimizer steps alone; evaluation, samples and saving are not in it."""
    evaluated_at: int = 0
    """Step of the last evaluation."""
    sampled_at: int = 0
    """Step of the last samples."""
    validation_loss: float | None = None
    """Nats a token at the last evaluation; ``None`` if it was not finite."""
    bits_per_byte: float | None = None
    best_step: int | None = None
    """Step with the lowest validation loss so far."""
    best_validation_loss: float | None = None
    average_at_best: float | None = None
    """``loss_average`` at that step."""
    memorised_in_a_row: int = 0
    """Last evaluations that all showed memorising."""

    @property
    def is_memorising(self) -> bool:
        """Whether enough evaluations in a row showed it."""
        return self.memorised_in_a_row >= PATIENCE

    def after_step(self, *, micro_steps: int, tokens: int, loss: float, skipped: bool) -> Self:
        """Counters after one more optimizer step; a skipped one adds nothing to the average."""
        average = self.loss_average
        if not skipped:
            share = max(AVERAGE_SHARE, micro_steps / (self.micro_step + micro_steps))
            average = loss if average is None else average + share * (loss - average)
        scale, at_scale = self.loss_scale, self.steps_at_scale
        may_be_cured = scale is not None and scale > 1.0 and math.isfinite(loss)
        in_a_row = self.skipped_in_a_row + (not may_be_cured) if skipped else 0
        if scale is not None:
            scale, at_scale = next_scale(scale, at_scale, skipped=skipped)
        return dataclasses.replace(
            self,
            micro_step=self.micro_step + micro_steps,
            tokens_seen=self.tokens_seen + tokens,
            skipped_steps=self.skipped_steps + skipped,
            skipped_in_a_row=in_a_row,
            loss_scale=scale,
            steps_at_scale=at_scale,
            loss_average=average,
        )

    def after_evaluation(self, step: int, evaluation: Evaluation) -> Self:
        """Counters after an evaluation at a step; one that is not finite compares with none."""
        loss, average, best_loss = evaluation.loss, self.loss_average, self.best_validation_loss
        if not math.isfinite(loss):
            return dataclasses.replace(
                self, evaluated_at=step, validation_loss=None, bits_per_byte=None
            )
        now = dataclasses.replace(
            self, evaluated_at=step, validation_loss=loss, bits_per_byte=evaluation.bits_per_byte
        )
        if best_loss is None or loss < best_loss:
            return dataclasses.replace(
                now,
                best_step=step,
                best_validation_loss=loss,
                average_at_best=average,
                memorised_in_a_row=0,
            )
        shown = shows_memorising(
            loss, average, best_loss=best_loss, average_at_best=self.average_at_best
        )
        return dataclasses.replace(
            now, memorised_in_a_row=self.memorised_in_a_row + 1 if shown else 0
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Content of ``training_state.json``."""

    counters: Counters
    precision: Precision
    """The dtype that products run in; kept, for measuring it anew could turn out otherwise."""
    horizons: tuple[int, ...]
    """Optimizer steps that each phase's schedule is laid out over."""
    recipe: Mapping[str, Any]
    """``Recipe.binding()``."""
    versions: Mapping[str, str]
    """Libraries and threads that the bits depend on."""
    data: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """SHA-256 of each source's text, and of a tokenizer at a path."""
    asked_model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields in which the recipe asked for another model than the imported one that was kept."""

    def to_json(self) -> str:
        """Text of the file."""
        content = dataclasses.asdict(self) | {"format_version": FORMAT_VERSION}
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: bytes, where: str) -> Self:
        """Parse; raises ``VolumeError`` for another format."""
        try:
            values = json.loads(text)
            version = values.pop("format_version")
            if version != FORMAT_VERSION:
                raise VolumeError(f"{where}: training state of format {version}, not known here")
            counters = Counters(**values.pop("counters"))
            made = cls(counters=counters, horizons=tuple(values.pop("horizons")), **values)
            return TypeAdapter(cls).validate_python(dataclasses.asdict(made))
        except ValidationError as error:
            places = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
            raise VolumeError(f"{where}: malformed training state: {places}") from error
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise VolumeError(f"{where}: malformed training state: {error!r}") from error
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise VolumeError(f"{where}: malformed training state: {error!r}") from error


def state_files(state: TrainingState, moments: Mapping[str, Tensor]) -> dict[str, Writer]:
    """Writers of the two files; the moments are CPU tensors that no longer change."""
    return {
        MOMENTS_FILE: functools.partial(_write_moments, dict(moments)),
        STATE_FILE: TextFile(state.to_json()),
    }


def load_state(step: Step) -> tuple[TrainingState, dict[str, Tensor]]:
    """Read a resumable step's state and moments; raises ``VolumeError`` if it is damaged."""
    state = TrainingState.from_json(read_file(step, STATE_FILE), str(step.path / STATE_FILE))
    try:
        return state, safetensors.torch.load(read_file(step, MOMENTS_FILE))
    except safetensors.SafetensorError as error:
        raise VolumeError(f"{step.path / MOMENTS_FILE}: {error}") from error


def _write_moments(moments: dict[str, Tensor], path: Path) -> None:
    safetensors.torch.save_file(moments, path)
