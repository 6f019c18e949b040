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

from trainer.events import Evaluated, Event, Published, Sampled, Snapshotted, Trained
from trainer.progress import LOGGER

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
        last = {KINDS[Evaluated]: evaluated}
        _keep(self._metrics, lambda line: line["step"] <= last.get(line["kind"], trained))
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
    """All whole lines of a journal; what a kill cut short or a disk damaged is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def _append_whole(path: Path, text: bytes) -> None:
    """Append all of a text or, if it does not fit, raise ``OSError`` and append nothing."""
    with path.open("ab", buffering=0) as file:
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
    kept = "".join(_text(line) for line in read_lines(path) if wanted(line))
    if not path.exists() or path.read_bytes() == kept.encode():
        return
    replacement = path.with_name(f".{path.name}-{os.getpid()}")
    replacement.write_text(kept, "utf-8")
    replacement.replace(path)
