"""The parent: forks the engine's process and the HTTP processes, and watches them.

It forks before it has used a device or started a thread, and imports what HTTP processes need
once: they share that memory, and one that takes another's place serves after some milliseconds.
"""

import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from service import signals
from service.http.sockets import listen_together, url
from service.settings.schema import Settings
from service.temporary_directory import scratch_directory

END_S = 10.0
"""After the engine's end, how long HTTP processes may take to tell their clients."""
FORCE_AFTER_S = 30.0
"""After the time of a drain, how long the processes may take to end."""
LEAST_LIFE_S = 1.0
"""An HTTP process that ends sooner is begun again that much later."""

ENGINE = 255
"""Stands for the engine where HTTP processes have numbers."""
COUNT_IN = "PROMETHEUS_MULTIPROC_DIR"
"""Names the directory of counters to prometheus-client, which looks as it is imported."""

logger = logging.getLogger(__name__)


def supervise(settings: Settings, num_workers: int) -> int:
    """Run the service; 0 after a signal, 1 if it ended otherwise, 2 for options without sense.

    Raises ``CannotListen``.
    """
    if sys.platform != "linux":
        raise ValueError("engine=process needs Linux; use engine=thread")
    with contextlib.ExitStack() as held:
        sockets = listen_together(settings.host, settings.port, num_workers)
        for sock in sockets:
            held.enter_context(sock)
        directory = held.enter_context(scratch_directory("engine=process"))
        return Supervisor(settings, sockets, directory).run()


def heard() -> tuple[signal.Signals, ...]:
    """Signals that the parent acts upon."""
    return (signal.SIGCHLD, signal.SIGUSR1, *signals.draining())


class Supervisor:
    """Begins processes, begins them again, and passes signals on."""

    def __init__(self, settings: Settings, sockets: list[socket.socket], directory: Path) -> None:
        self._settings = settings
        self._sockets = sockets
        self._path = directory / "engine"
        self._counters = directory / "counters"
        self._counters.mkdir()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._lifeline, self._our_end = os.pipe()
        """The parent alone holds the second: others read its end from the first."""
        self._news, self._tell = os.pipe()
        """Numbers of HTTP processes that listen, and ``ENGINE`` once its options make sense."""
        self._engine = 0
        self._workers: dict[int, int] = {}
        """Number by process id."""
        self._born: dict[int, float] = {}
        self._due: dict[int, float] = {}
        """When to begin an HTTP process again, by number."""
        self._listening: set[int] = set()
        self._is_stopping = False
        self._end_by: float | None = None
        self._exit_code: int | None = None
        """Of the engine, once it has ended."""
        self._has_failed = False
        """Whether an HTTP process could not start."""

    def run(self) -> int:
        """Until all have ended."""
        with signals.as_bytes(*heard()) as woken, selectors.DefaultSelector() as selector:
            self._engine = self._fork(self._run_engine)
            self._listener.close()
            self._preload()
            selector.register(woken, selectors.EVENT_READ)
            selector.register(self._news, selectors.EVENT_READ)
            while self._workers or self._exit_code is None:
                for key, _ in selector.select(self._patience()):
                    content = os.read(key.fd, 1024)
                    if key.fd == self._news:
                        self._on_news(content)
                    else:
                        self._on_signals(content)
                self._begin_due()
                self._kill_late()
        if self._exit_code not in (0, 2):
            logger.error("the engine's process has ended by itself (%s)", self._exit_code)
        if self._has_failed:
            return 1
        return self._exit_code if self._exit_code in (0, 2) else 1

    def _preload(self) -> None:
        """Import what HTTP processes need, so that they count in files from the beginning."""
        os.environ[COUNT_IN] = str(self._counters)
        import service.processes.http_process  # noqa: F401

        gc.freeze()  # shared from here on: a collection would write to all of it

    def _run_engine(self) -> int:
        from service.processes.engine_process import run

        for sock in self._sockets:
            sock.close()
        return run(
            self._settings,
            self._listener,
            self._counters,
            self._lifeline,
            lambda: self._say(ENGINE),
        )

    def _run_worker(self, number: int) -> int:
        from service.processes.http_process import run

        for other, sock in enumerate(self._sockets):
            if other != number:
                sock.close()

        return run(
            self._settings,
            self._sockets[number],
            self._path,
            self._lifeline,
            lambda: self._say(number),
        )

    def _say(self, number: int) -> None:
        os.write(self._tell, bytes([number]))

    def _fork(self, run: Callable[[], int]) -> int:
        """Run in a child, in a process group of its own: a terminal's Ctrl-C is for the parent."""
        with signals.held_back():  # one that came before it would be the parent's in the child
            pid = os.fork()
            if not pid:
                signals.as_in_a_new_process()
        if pid:
            return pid
        code = 1
        try:
            os.setpgid(0, 0)
            os.close(self._our_end)
            code = run()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            logger.exception("a process of the service has ended")
        finally:
            logging.shutdown()
            os._exit(code)

    def _begin(self, number: int) -> None:
        pid = self._fork(lambda: self._run_worker(number))
        self._workers[pid] = number
        self._born[pid] = time.monotonic()

    def _begin_due(self) -> None:
        now = time.monotonic()
        for number in [number for number, at in self._due.items() if at <= now]:
            del self._due[number]
            self._begin(number)

    def _kill_late(self) -> None:
        """End what has not ended after a drain, and HTTP processes after the engine's end."""
        if self._end_by is not None and time.monotonic() >= self._end_by:
            logger.error("processes of the service have not ended in time, and are killed")
            self._kill([self._engine, *self._workers], signal.SIGKILL)
            self._end_by = time.monotonic() + END_S

    def _patience(self) -> float | None:
        """Seconds until something is due, if anything is."""
        moments = [*self._due.values(), *([] if self._end_by is None else [self._end_by])]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _on_news(self, numbers: bytes) -> None:
        if ENGINE in numbers and not self._is_stopping:
            for number in range(len(self._sockets)):
                self._begin(number)
        self._on_listening(set(numbers) - {ENGINE})

    def _on_listening(self, numbers: set[int]) -> None:
        was_complete = len(self._listening) == len(self._sockets)
        self._listening.update(numbers)
        if len(self._listening) == len(self._sockets) and not was_complete:
            logger.info(
                "running on %s; HTTP processes: %d", url(self._sockets[0]), len(self._sockets)
            )

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGUSR1:
                self._kill([self._engine], signal.SIGUSR1)
            else:
                self._stop()

    def _stop(self) -> None:
        """Have all drain; the second time, HTTP processes end at once, and the engine with them."""
        if not self._is_stopping:
            self._end_by = time.monotonic() + self._settings.drain_timeout_s + FORCE_AFTER_S
        self._is_stopping = True
        self._due.clear()
        self._kill([self._engine, *self._workers], signal.SIGTERM)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            if pid == self._engine:
                self._on_engine_ended(code)
            elif pid in self._workers:
                self._on_worker_ended(pid, code)

    def _on_engine_ended(self, code: int) -> None:
        """HTTP processes see it, too: they tell their clients, and end."""
        was_told = self._is_stopping and code == -signal.SIGTERM  # before it could listen to it
        self._exit_code = 0 if was_told else code
        self._is_stopping = True
        self._due.clear()
        self._end_by = time.monotonic() + END_S

    def _on_worker_ended(self, pid: int, code: int) -> None:
        number = self._workers.pop(pid)
        lived = time.monotonic() - self._born.pop(pid)
        if self._is_stopping:
            return
        if number not in self._listening:
            logger.error("HTTP process %d has not started (%d)", number, code)
            self._has_failed = True
            self._stop()
            return
        logger.error("HTTP process %d has ended (%d), and is begun again", number, code)
        self._due[number] = time.monotonic() + (LEAST_LIFE_S if lived < LEAST_LIFE_S else 0.0)

    def _kill(self, pids: list[int], number: signal.Signals) -> None:
        for pid in pids:
            if pid == self._engine and self._exit_code is not None:
                continue  # its id may be another process's by now
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
