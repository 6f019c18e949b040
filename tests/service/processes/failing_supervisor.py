"""Runs a supervisor whose HTTP processes cannot start, and ends with what it returns.

A program of its own: a supervisor waits for every child of its process, a test's own, too.
"""

import signal
import sys
import tempfile
from pathlib import Path

from service.http.sockets import listen_together
from service.processes.supervisor import ENGINE, Supervisor
from service.settings.schema import Settings


class Failing(Supervisor):
    """An engine that waits for its signal, and HTTP processes that end with 3."""

    def _preload(self) -> None:
        pass

    def _run_engine(self) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.raise_signal(signal.SIGUSR1)  # there is no profile yet
        self._say(ENGINE)
        signal.sigwait({signal.SIGTERM})
        return 0

    def _run_worker(self, number: int) -> int:
        return 3


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        sockets = listen_together("127.0.0.1", 0, 1)
        status = Failing(Settings(), sockets, Path(directory)).run()
    sys.exit(status)
