"""``python -m service`` as a child process, found by the port that it logs."""

import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from serving.exposition import Exposition
from serving.http_client import http_client
from serving.waiting import wait_until

ROOT = Path(__file__).parents[3]
SLOW_SERVICE = Path(__file__).with_name("slow_service.py")
FAULTY_SERVICE = Path(__file__).with_name("faulty_service.py")
DYING_SERVICE = Path(__file__).with_name("dying_service.py")


class ServiceProcess:
    """Runs while entered; killed at the end if it has not ended by itself.

    ``step_delay_s`` makes every step of the engine take at least so long, by a wrapper around
    the runner: streams then last long enough to have things happen to them. ``control`` is a
    directory by which a test breaks the disk and the clock; see ``faulty_service``. ``orders`` is
    one by which it kills threads; see ``dying_service``. ``environment`` is added to this process's
    own.
    """

    def __init__(
        self,
        volume: Path | None,
        *,
        step_delay_s: float = 0.0,
        control: Path | None = None,
        orders: Path | None = None,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        defaults = {"port": 0, "dtype": "float64", "threads": 1, "poll_interval_s": 0.05}
        given = defaults | ({} if volume is None else {"volume": volume}) | options
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        program = [str(SLOW_SERVICE), str(step_delay_s)] if step_delay_s else ["-m", "service"]
        if control is not None:
            program = [str(FAULTY_SERVICE), str(control)]
        if orders is not None:
            program = [str(DYING_SERVICE), str(orders)]
        self._command = [sys.executable, *program, *arguments]
        self._environment = dict(environment or {})
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None
        self.client = http_client()

    def __enter__(self) -> Self:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NESTLING_")}
        environment |= self._environment
        environment["PYTHONPATH"] = str(ROOT)  # this tree's code, whatever is installed
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, env=environment, stdout=self._log, stderr=subprocess.STDOUT
        )
        wait_until(self._is_listening, "the service listens", timeout_s=180)
        self.client = http_client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.client.close()
        process = self.process
        if process.poll() is None:
            process.kill()
        process.wait()
        if error is not None:
            sys.stderr.write(self.log())
        self._log.close()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running child."""
        assert self._process is not None, "enter first"
        return self._process

    @property
    def port(self) -> int:
        """The port that it listens on."""
        found = re.search(r"running on http://[\d.]+:(\d+)", self.log())
        assert found is not None, self.log()
        return int(found.group(1))

    def log(self) -> str:
        """Everything it wrote so far."""
        return Path(self._log.name).read_text("utf-8")

    def limit_memory(self, more_bytes: int) -> None:
        """Let its address space grow by so much from now on: what takes more gets a MemoryError."""
        used = psutil.Process(self.process.pid).memory_info().vms + more_bytes
        resource.prlimit(self.process.pid, resource.RLIMIT_AS, (used, used))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def exit_code(self, timeout_s: float = 20.0) -> int:
        """Wait for its end."""
        return self.process.wait(timeout_s)

    def wait_serving(self, name: str) -> None:
        """Wait until this checkpoint serves."""
        wait_until(
            lambda: self.client.get("/readyz").json()["checkpoint"] == name,
            f"{name} serves",
            timeout_s=60,
        )

    def metrics(self) -> Exposition:
        """Scrape."""
        return Exposition(self.client.get("/metrics").text)

    def _is_listening(self) -> bool:
        assert self.process.poll() is None, f"the service ended:\n{self.log()}"
        return "running on http://" in self.log()
