"""One end of the Unix socket between an engine's process and an HTTP process.

Any thread may send, without waiting: what the socket does not take is kept and sent by the event
loop, up to a bound. Whoever reads so slowly that the bound is reached is cut off.
"""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable

from service.processes.wire.frames import Kind, Splitter

READ_BYTES = 1 << 18
MAX_BACKLOG_BYTES = 64 << 20
"""Of frames that the other end has not read: some seconds of everything that a GPU writes."""

logger = logging.getLogger(__name__)


class Channel:
    """Frames in and out."""

    def __init__(
        self,
        sock: socket.socket,
        on_frame: Callable[[Kind, bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        """Called in the event loop, as ``on_frame`` and ``on_end``, which comes once, are."""
        sock.settimeout(0.0)
        self._sock = sock
        self._on_frame = on_frame
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._splitter = Splitter()
        self._backlog = bytearray()
        self._lock = threading.Lock()
        self.is_open = True
        self._is_closed = False
        self._loop.add_reader(sock, self._read)

    def send(self, frame: bytes) -> None:
        """Send or keep; nothing once the other end is gone."""
        with self._lock:
            if not self.is_open:
                return
            sent = 0
            if not self._backlog:
                with contextlib.suppress(
                    OSError
                ):  # a full socket; a broken one is seen by ``_read``
                    sent = self._sock.send(frame)
                if sent == len(frame):
                    return
                self._in_loop(self._watch)
            self._backlog += memoryview(frame)[sent:]
            if len(self._backlog) > MAX_BACKLOG_BYTES:
                logger.error("a process does not read what is sent to it, and is cut off")
                self._backlog.clear()
                self.is_open = False  # nothing may follow the half of a frame that was sent
                self._in_loop(self.close)

    def close(self) -> None:
        """End it, from the event loop."""
        with self._lock:
            if self._is_closed:
                return
            self.is_open, self._is_closed = False, True
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
        self._on_end()

    def _in_loop(self, what: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(what)

    def _read(self) -> None:
        try:
            data = self._sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            for kind, payload in self._splitter.feed(data):
                self._on_frame(kind, payload)
        except BaseException:  # a bug of ours: what comes after it cannot be trusted
            logger.exception("a frame makes no sense, and the channel is closed")
            self.close()

    def _watch(self) -> None:
        if self.is_open:
            self._loop.add_writer(self._sock, self._write)

    def _write(self) -> None:
        with self._lock:
            if not self.is_open:
                return
            with contextlib.suppress(OSError):
                sent = self._sock.send(self._backlog)
                del self._backlog[:sent]
            if not self._backlog:
                self._loop.remove_writer(self._sock)
