"""The manifest of a step: what it holds, how it came about, and that it is complete.

JSON, written last into the step's directory: a step without one does not exist for readers.
"""

import dataclasses
import datetime as dt
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Self, TypeVar

from lm.model.config import ModelConfig
from lm.volume.errors import StepDamaged, UnknownFormat

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 1
TRAINING_STATE_PREFIX = "training_state"
"""Files of a step that only a resuming trainer reads begin with this."""
_STEP_PREFIX = "step-"
_STEP_DIGITS = 8
_ESCAPED_SURROGATE = "\\ud"
"""How the half of a character begins, which no text can be written with."""
_MOST_SAID = 200
"""Characters of what a manifest says that an error repeats."""

T = TypeVar("T")


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
        """Parse; raises ``UnknownFormat`` for another version, ``StepDamaged`` for other faults.

        What is read can be written: no text with lone surrogates, no number that is not finite,
        no time that clocks do not have.
        """
        try:
            text = text if isinstance(text, str) else text.decode("utf-8")
            values = json.loads(text)
            if _ESCAPED_SURROGATE in text.lower():
                json.dumps(values, ensure_ascii=False).encode()
            version = values["format_version"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            reason = repr(error)[:_MOST_SAID]
            raise StepDamaged(f"{where}: not a manifest: {reason}") from error
        if version != FORMAT_VERSION or type(version) is not int:
            said = repr(version)[:_MOST_SAID]
            raise UnknownFormat(
                f"{where}: format version {said}; this program reads {FORMAT_VERSION}"
            )
        try:
            return cls(
                run=_of_type(values["run"], str),
                step=_of_type(values["step"], int),
                created_at=_moment(values["created_at"]).isoformat(),
                files={name: _entry(**entry) for name, entry in values["files"].items()},
                details=_details(values["details"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            reason = repr(error)[:_MOST_SAID]
            raise StepDamaged(f"{where}: malformed manifest: {reason}") from error

    @property
    def created_timestamp(self) -> float:
        """When the step was written, in seconds since the epoch."""
        return dt.datetime.fromisoformat(self.created_at).timestamp()

    @functools.cached_property
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
        "tokenizer_fingerprint": _of_type(values["tokenizer_fingerprint"], str),
        "progress": _progress(values["progress"]),
        "metrics": {name: _finite(value) for name, value in values["metrics"].items()},
        "flags": tuple(_of_type(flag, str) for flag in _of_type(values["flags"], list)),
        "versions": {
            name: _of_type(value, str) for name, value in values.get("versions", {}).items()
        },
    }
    details = StepDetails(**{**values, **parts})
    _of_type(details.recipe_hash, str)
    _of_type(details.resumable, bool)
    return details


def _progress(values: Mapping[str, Any]) -> Progress:
    for name, value in values.items():
        _of_type(value, str if name == "unit" else int)
    return Progress(**values)


def _entry(size: object, sha256: object) -> FileEntry:
    if _of_type(size, int) < 0:
        raise ValueError(f"a file of {size!r} bytes")
    return FileEntry(size=_of_type(size, int), sha256=_of_type(sha256, str))


def _of_type(value: object, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def _moment(text: str) -> dt.datetime:
    """A time with its offset; one that UTC has, too, so that ages can be computed."""
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no offset from UTC")
    moment.astimezone(dt.UTC)
    return moment
