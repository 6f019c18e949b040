"""The service's log: a JSON object a line for machines, or a readable line for people.

What uvicorn says is in it, in the same form. A record's ``fields`` (``extra={"fields": …}``) are
members of its object. Nothing here ever holds a prompt or an answer.
"""

import datetime as dt
import json
import logging
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO

LogFormat = Literal["auto", "console", "json"]
DIGITS = 6
"""Of seconds: microseconds are as fine as a clock is worth."""


def configure(level: str, log_format: LogFormat, stream: TextIO = sys.stderr) -> None:
    """Send every logger of this process to one stream; ``auto`` is JSON unless it is a terminal."""
    is_console = stream.isatty() if log_format == "auto" else log_format == "console"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ConsoleFormatter() if is_console else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class JsonFormatter(logging.Formatter):
    """One object a record: time, level, logger, message, its fields, and a traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; line breaks within are escaped."""
        at = dt.datetime.fromtimestamp(record.created, dt.UTC)
        entry: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class ConsoleFormatter(logging.Formatter):
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
    return {
        name: round(value, DIGITS) if isinstance(value, float) else value
        for name, value in fields.items()
    }
