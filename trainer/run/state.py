"""What a run needs beside the weights to go on as if it had never stopped.

Moments as safetensors, counters and everything else as JSON: both open without a pickle. There
is no generator state and no data cursor to keep: batch i and the dropout of micro-batch i are
functions of (seed, i), so the micro-step says it all. Not here: how and when a snapshot becomes
a published step (``trainer.run.checkpoint``).
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import safetensors.torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from lm.volume import Step, VolumeError
from lm.volume.content import read_file
from lm.volume.publish import TextFile, Writer
from trainer.step.counters import Counters
from trainer.step.precision import Precision

MOMENTS_FILE = "training_state.safetensors"
STATE_FILE = "training_state.json"
FORMAT_VERSION = 1


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
