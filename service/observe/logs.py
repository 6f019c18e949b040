"""The service's log: a JSON object a line for machines, or a readable line for people.

What uvicorn says is in it, in the same form. A record's ``fields`` (``extra={"fields": …}``) are
members of its object. Nothing here ever holds a prompt or an answer, unless it is asked for, nor
more than an excerpt of anything that a client sent.
"""

import datetime as dt
import json
import logging
import os
import stat
import sys
import traceback
from collections.abc import Mapping
from typing import Any, Literal, TextIO

from service.excerpts import MAX_MESSAGE, excerpt
from service.observe.log_pipe import PipeHandler

LogFormat = Literal["auto", "console", "json"]
DIGITS = 6
"""Of seconds: microseconds are as fine as a clock is worth."""
MAX_TEXT = 200
"""Characters of a field, of an exception's message, and of what uvicorn repeats of a request."""
MESSAGE_FIELD = "error"
"""Holds a whole message, in which excerpts are."""

MAX_CHAIN = 8
"""Exceptions of which one came from the other."""
HEAD = "Traceback (most recent call last):\n"


def configure(level: str, log_format: LogFormat, stream: TextIO = sys.stderr) -> None:
    """Send every logger of this process to one stream; ``auto`` is JSON unless it is a terminal."""
    is_console = stream.isatty() if log_format == "auto" else log_format == "console"
    handler = _handler(stream)
    handler.setFormatter(ConsoleFormatter() if is_console else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _handler(stream: TextIO) -> logging.Handler:
    """What writes to a file does not wait for a reader; what writes to anything else might."""
    try:
        descriptor = stream.fileno()
        may_wait = not stat.S_ISREG(os.fstat(descriptor).st_mode)
    except (OSError, ValueError):  # a stream in memory
        may_wait = False
    return PipeHandler(descriptor) if may_wait else logging.StreamHandler(stream)


class BoundedFormatter(logging.Formatter):
    """Repeats little of texts that may be a client's."""

    def format(self, record: logging.LogRecord) -> str:
        """A line, and a traceback if there is one."""
        most = MAX_TEXT if record.name.startswith("uvicorn") else MAX_MESSAGE
        if isinstance(record.args, tuple):
            record.args = tuple(
                excerpt(one, most) if isinstance(one, str | BaseException) else one
                for one in record.args
            )
        return super().format(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802  logging's name
        """As Python prints it, but for long messages, which may have a client's text."""
        said: list[str] = []
        error: BaseException | None = ei[1]
        while error is not None and len(said) < MAX_CHAIN:
            frames = "".join(traceback.format_tb(error.__traceback__))
            said.append(f"{HEAD}{frames}{type(error).__qualname__}: {excerpt(error, MAX_TEXT)}")
            is_hidden = error.__suppress_context__
            error = error.__cause__ or (None if is_hidden else error.__context__)
        return "\n\nfrom which came:\n\n".join(reversed(said))


class JsonFormatter(BoundedFormatter):
    """One object a record: time, level, logger, message, its fields, and a traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; line breaks within are escaped."""
        super().format(record)
        at = dt.datetime.fromtimestamp(record.created, dt.UTC)
        entry: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.message,
            **_fields(record),
        }
        if record.exc_text:
            entry["exception"] = record.exc_text
        return json.dumps(entry, ensure_ascii=False, default=str)


class ConsoleFormatter(BoundedFormatter):
    """Time, level, logger and message, then the fields as ``name=value``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """The line; values are quoted as in JSON, so that none can begin another line."""
        pairs = [
            f"{name}={json.dumps(value, ensure_ascii=False, default=str)}"
            for name, value in _fields(record).items()
            if value is not None
        ]
        return " ".join([super().formatMessage(record), *pairs])


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return {name: _shown(name, value) for name, value in fields.items()}


def _shown(name: str, value: object) -> object:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, str):
        return excerpt(value, MAX_MESSAGE if name == MESSAGE_FIELD else MAX_TEXT)
    return value
