"""The manifest of a step: what it holds, how it came about, and that it is complete.

JSON, written last into the step's directory: a step without one does not exist for readers.
"""

import dataclasses
import datetime as dt
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Self

from lm.config import ModelConfig
from lm.volume.errors import StepDamaged, UnknownFormat

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 1
TRAINING_STATE_PREFIX = "training_state"
"""Files of a step that only a resuming trainer reads begin with this."""
_STEP_PREFIX = "step-"
_STEP_DIGITS = 8


def step_name(step: int) -> str:
    """Directory name of a step: ``step-00000500``."""
    return f"{_STEP_PREFIX}{step:0{_STEP_DIGITS}d}"


def step_number(name: str) -> int | None:
    """Step of a directory name, ``None`` if it is not a step's."""
    digits = name.removeprefix(_STEP_PREFIX)
    if digits.isdecimal() and name == step_name(int(digits)):
        return int(digits)
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """Where training stood: counts of everything done so far."""

    micro_step: int
    optimizer_step: int
    tokens_seen: int
    unit: str = "optimizer"
    """Which of the steps the step's number counts, ``micro`` or ``optimizer``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a step as it was written."""

    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepDetails:
    """What the writer knows of a step beside its files."""

    model_config: ModelConfig
    tokenizer_fingerprint: str
    progress: Progress
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """By name: ``train_loss`` and ``val_loss`` (nats a token), ``val_bits_per_byte``, …

    One that is not finite is left out of the file, which must be JSON for every reader.
    """
    flags: tuple[str, ...] = ()
    """Findings that readers may act on, such as ``memorising``."""
    recipe_hash: str = ""
    resumable: bool = False
    """Whether the step holds the training state, not the weights alone."""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Libraries, threads and whatever else the bits depend on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content of ``manifest.json``."""

    run: str
    step: int
    created_at: str
    """UTC, ISO 8601."""
    files: Mapping[str, FileEntry]
    details: StepDetails
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Text of the file, keys sorted."""
        values = dataclasses.asdict(self)
        metrics = values["details"]["metrics"]
        values["details"]["metrics"] = {k: v for k, v in metrics.items() if math.isfinite(v)}
        return json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Self:
        """Parse; raises ``UnknownFormat`` for another version, ``StepDamaged`` for other faults."""
        try:
            values = json.loads(text)
            version = values["format_version"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StepDamaged(f"{where}: not a manifest: {error!r}") from error
        if version != FORMAT_VERSION:
            raise UnknownFormat(
                f"{where}: format version {version!r}; this program reads {FORMAT_VERSION}"
            )
        try:
            return cls(
                run=str(values["run"]),
                step=int(values["step"]),
                created_at=dt.datetime.fromisoformat(values["created_at"]).isoformat(),
                files={name: FileEntry(**entry) for name, entry in values["files"].items()},
                details=_details(values["details"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise StepDamaged(f"{where}: malformed manifest: {error!r}") from error

    @property
    def created_timestamp(self) -> float:
        """When the step was written, in seconds since the epoch."""
        return dt.datetime.fromisoformat(self.created_at).timestamp()

    @property
    def fingerprint(self) -> str:
        """SHA-256 that names the run, the step and the bytes of every file but training state.

        Reducing a step to a milestone does not change it.
        """
        served = {
            name: entry.sha256
            for name, entry in sorted(self.files.items())
            if not name.startswith(TRAINING_STATE_PREFIX)
        }
        identity = json.dumps([self.run, self.step, served])
        return hashlib.sha256(identity.encode()).hexdigest()

    def without_training_state(self) -> Self:
        """The manifest of the same step as a milestone: its weights alone."""
        files = {
            name: entry
            for name, entry in self.files.items()
            if not name.startswith(TRAINING_STATE_PREFIX)
        }
        details = dataclasses.replace(self.details, resumable=False)
        return dataclasses.replace(self, files=files, details=details)


def _details(values: dict[str, Any]) -> StepDetails:
    parts = {
        "model_config": ModelConfig.from_dict(values["model_config"]),
        "progress": Progress(**values["progress"]),
        "metrics": {name: float(value) for name, value in values["metrics"].items()},
        "flags": tuple(values["flags"]),
    }
    return StepDetails(**{**values, **parts})
