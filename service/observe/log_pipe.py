"""Writes log lines where a write may wait for a reader: to a pipe, a terminal, a socket.

Nobody waits for that but a thread of its own. What would be too much to keep is dropped and
counted; the log says how many lines, once it is read again.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

MAX_WAITING_BYTES = 1 << 20
"""Some thousand lines: what a reader may be late."""
FLUSH_S = 1.0
"""How long the end of the process waits for lines to be taken."""
RETRY_S = 0.05


class PipeHandler(logging.Handler):
    """Never blocks whoever logs."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.on_dropped: Callable[[int], object] = lambda _: None
        """Told how many more lines are lost."""
        self._thread: threading.Thread | None = None
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def emit(self, record: logging.LogRecord) -> None:
        """Have a line written, or drop it."""
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
        except Exception:  # noqa: BLE001  as logging's own handlers do
            self.handleError(record)
            return
        with self._changed:
            is_kept = self._num_bytes + len(line) <= MAX_WAITING_BYTES
            if is_kept:
                self._lines.append(line)
                self._num_bytes += len(line)
                self._changed.notify_all()
            else:
                self._num_unsaid += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="log", daemon=True)
                self._thread.start()
        if not is_kept:
            self.on_dropped(1)

    def flush(self) -> None:
        """Wait until all is written, but not for long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._num_bytes, FLUSH_S)

    def _begin(self) -> None:
        """Nothing waits yet; in a forked process, where the parent's thread is not, again."""
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._num_bytes = 0
        """Of lines that wait or are being written."""
        self._num_unsaid = 0
        """Lines that were dropped and of which the log does not say so yet."""
        self._thread = None

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                lines, self._lines = self._lines, []
            for line in lines:
                if not self._write_all(line):
                    self.on_dropped(1)
                with self._changed:
                    self._num_bytes -= len(line)
            with self._changed:
                num_lost, self._num_unsaid = self._num_unsaid, 0
                self._changed.notify_all()
            if num_lost:
                self._write_all(self._said(num_lost))

    def _said(self, num_lost: int) -> bytes:
        message = "%d log lines were dropped: nobody read them"
        record = logging.LogRecord(
            __name__, logging.WARNING, __file__, 0, message, (num_lost,), None
        )
        return (self.format(record) + "\n").encode("utf-8", "backslashreplace")

    def _write_all(self, content: bytes) -> bool:
        """Write, however long it takes; whether it could be."""
        while content:
            try:
                content = content[os.write(self._descriptor, content) :]
            except BlockingIOError:  # somebody else had the pipe not wait
                time.sleep(RETRY_S)
            except OSError:  # its reader is gone
                return False
        return True


def report_drops(on_dropped: Callable[[int], object]) -> None:
    """Have whoever counts told of lines that are dropped."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, PipeHandler):
            handler.on_dropped = on_dropped
