import signal
from pathlib import Path

import pytest

from service.processes.supervisor import ENGINE, SIGNALS, Supervisor, listen
from service.settings import Settings


class Failing(Supervisor):
    """An engine that waits for its signal, and HTTP processes that cannot start."""

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


def test_a_service_whose_http_processes_cannot_start_has_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sockets = listen("127.0.0.1", 0, 1)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        assert Failing(Settings(), sockets, tmp_path).run() == 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for sock in sockets:
            sock.close()
    assert "HTTP process 0 has not started (3)" in caplog.text
