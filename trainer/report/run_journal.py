"""A run's own records: ``metrics.jsonl`` and ``samples.jsonl``, one JSON object a line.

Appended as things happen and read by ``trainer plot`` and by people. A resumed run first drops
the lines past its step, since it will write them again: no step appears twice. These files tell
of a run; nothing that decides its weights is read back from them, so a disk that is full does not
stop it: lines wait in memory until there is room.
"""

import dataclasses
import errno
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lm.plain_file import open_followed, plain
from trainer.report.events import Evaluated, Event, Published, Sampled, Snapshotted, Trained
from trainer.report.progress import LOGGER

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"

KINDS: Mapping[type[Event], str] = {
    Trained: "train",
    Evaluated: "evaluation",
    Snapshotted: "snapshot",
    Published: "published",
}
"""Events that ``metrics.jsonl`` keeps, and what their lines are called."""

Line = Mapping[str, Any]


class Journal:
    """The two files of one run."""

    def __init__(self, run_dir: Path) -> None:
        self._metrics = run_dir / METRICS_FILE
        self._samples = run_dir / SAMPLES_FILE
        self._waiting: dict[Path, str] = {}
        """Lines that found no room, by file."""

    def rewind(self, *, trained: int, evaluated: int, sampled: int) -> None:
        """Drop what the run has not done yet: lines past these steps, by kind."""
        of_evaluation = KINDS[Evaluated]
        _keep(
            self._metrics,
            lambda line: (
                line["step"] <= (evaluated if line.get("kind") == of_evaluation else trained)
            ),
        )
        _keep(self._samples, lambda line: line["step"] <= sampled)

    def hear(self, event: Event) -> None:
        """Record an event, if it is of a kind that is kept."""
        if isinstance(event, Sampled):
            self._append(self._samples, dataclasses.asdict(event))
        elif (kind := KINDS.get(type(event))) is not None:
            self._append(self._metrics, {"kind": kind, **dataclasses.asdict(event)})

    def _append(self, path: Path, line: Line) -> None:
        was_waiting = bool(self._waiting)
        self._waiting[path] = self._waiting.get(path, "") + _text(line)
        for waiting, text in list(self._waiting.items()):
            try:
                _append_whole(waiting, text.encode())
                del self._waiting[waiting]
            except OSError as error:
                if not was_waiting:
                    logging.getLogger(LOGGER).error("%s waits for room: %s", path.name, error)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a journal that have a step; what a kill or a disk cut short is left out.

    Empty where there is no journal. Raises ``OSError`` if there is one that cannot be read.
    """
    parsed = (_parsed(text) for text in _content(path).split(b"\n"))
    return [line for line in parsed if line is not None]


def _content(path: Path) -> bytes:
    if not path.is_file():
        return b""
    with open_followed(path) as file:
        return file.read()


def _parsed(text: bytes) -> dict[str, Any] | None:
    """A line of a journal; ``None`` if it is none: a file may end inside a character."""
    try:
        line = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and type(line.get("step")) is int else None


def _append_whole(path: Path, text: bytes) -> None:
    """Append all of a text or, if it does not fit, raise ``OSError`` and append nothing."""
    with open(path, "ab", buffering=0, opener=plain) as file:
        end = file.tell()
        if file.write(text) < len(text):
            file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _text(line: Line) -> str:
    """Strict JSON: what is not finite is null."""
    values = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in line.items()
    }
    return json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n"


def _keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a journal with the wanted lines, by one rename, if it has others."""
    content = _content(path)
    lines = ((text, _parsed(text)) for text in content.split(b"\n"))
    kept = b"".join(text + b"\n" for text, line in lines if line is not None and wanted(line))
    if content == kept:
        return
    replacement = path.with_name(f".{path.name}-{os.getpid()}")
    replacement.write_bytes(kept)
    replacement.replace(path)
