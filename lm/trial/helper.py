"""The program in which things are tried, begun once and asked again.

It is begun at the usual priority: a process that is begun by an idle thread gets no time on a busy
machine, and the interpreter's lock is held until it runs.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

HEAD_BYTES = 8
"""Before each request its length, little-endian."""
_ENVIRONMENT = {"RAYON_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


class Program:
    """``lm.trial.program`` as a child; one thread asks at a time. It ends with this process."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join([root, *(one for one in sys.path if one and one != root)])
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-P", "-m", "lm.trial.program"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a panic's text
            env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
            start_new_session=True,  # a terminal's Ctrl-C is for its parent
        )
        self._owner = os.getpid()
        atexit.register(self._end_at_exit)

    @property
    def is_running(self) -> bool:
        """Whether it can be asked again."""
        return self._process.poll() is None

    def ask(self, request: bytes, timeout_s: float) -> dict[str, Any]:
        """What it says; raises ``OSError``, and ``TimeoutError`` which is one, and ends it then."""
        with self._lock:
            try:
                return self._answer(request, time.monotonic() + timeout_s)
            except BaseException:
                self.end()
                raise

    def end(self) -> None:
        """Kill it, with a trial that runs."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def _end_at_exit(self) -> None:
        if os.getpid() == self._owner:  # and not one that was forked
            self.end()

    def _answer(self, request: bytes, end: float) -> dict[str, Any]:
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        to.write(len(request).to_bytes(HEAD_BYTES, "little") + request)
        to.flush()
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([back], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError("no answer in time")
            piece = os.read(back.fileno(), 1 << 16)
            if not piece:
                raise OSError("the program that tries tokenizers has ended")
            line += piece
        said: dict[str, Any] = json.loads(line)
        return said
