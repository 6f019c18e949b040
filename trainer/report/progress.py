"""What a person sees while a run trains: a live bar on a terminal, plain lines elsewhere.

Both come with ``training.log``, which holds every line. Lines that the bar shows anyway (one per
logged step) are kept off a terminal that has one.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from lm.plain_file import plain

LOG_FILE = "training.log"
LOGGER = "trainer"
WIDE = 100
"""Columns of a terminal that has room for a bar beside the figures."""
ON_BAR = {"on_bar": True}
"""``extra=`` of a log record whose content the bar shows."""


class Bar:
    """A progress bar over a run's steps; without a terminal it shows nothing."""

    def __init__(self, progress: Progress | None, task: TaskID | None) -> None:
        self._progress = progress
        self._task = task

    def update(self, step: int, text: str, share: str = "") -> None:
        """Move to a step and show its figures, the share of the peak where there is room."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=step, figures=text, share=share)


@contextlib.contextmanager
def show(run_dir: Path, *, total: int, done: int, console: Console) -> Iterator[Bar]:
    """Log to ``training.log`` and the terminal, with a bar where there is one.

    Args:
        run_dir: directory of the run.
        total: steps of the whole run.
        done: steps done before, by the run that is resumed.
        console: where to show it.

    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_handler(_file_handler(run_dir / LOG_FILE)))
        if not console.is_terminal:
            stack.enter_context(_handler(_plain_handler(console)))
            yield Bar(None, None)
            return
        stack.enter_context(_handler(_terminal_handler(console)))
        progress = stack.enter_context(
            Progress(
                *[BarColumn(bar_width=8)] * (console.width >= WIDE),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                *[TextColumn("{task.fields[share]}")] * (console.width >= WIDE),
                TextColumn("eta"),
                TimeRemainingColumn(),
                console=console,
            )
        )
        yield Bar(
            progress,
            progress.add_task(run_dir.name, total=total, completed=done, figures="", share=""),
        )


@contextlib.contextmanager
def _handler(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


class _LogFile(logging.FileHandler):
    """Goes without the lines that find no room on a full disk; the terminal shows them."""

    def _open(self) -> TextIOWrapper:
        descriptor = plain(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return TextIOWrapper(os.fdopen(descriptor, "ab"), self.encoding)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Do without ``logging``'s traceback: the run goes on."""


def _file_handler(path: Path) -> logging.Handler:
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


def _plain_handler(console: Console) -> logging.Handler:
    handler = logging.StreamHandler(console.file)
    handler.setFormatter(logging.Formatter("%(asctime)s trainer: %(message)s", "%H:%M:%S"))
    return handler


def _terminal_handler(console: Console) -> logging.Handler:
    handler = RichHandler(console=console, show_path=False, show_level=False, markup=False)
    handler.addFilter(lambda record: not getattr(record, "on_bar", False))
    return handler
