"""Signals that are not for the service, and starts with less than a shell gives."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import psutil
import pytest
from machine_tools import free_port, give_up
from serving import ServiceProcess, SteadyClient, assert_unhurt, stream_generate, wait_until
from serving.process import ROOT
from toys import publish_toy

from service import signals

HOMELESS = Path(__file__).with_name("homeless.py")
NOT_ALLOWED = 77
SLOW = pytest.mark.slow
BOTH = pytest.mark.parametrize("engine", ["thread", "process"])
ENGINES = pytest.mark.parametrize("engine", ["thread", pytest.param("process", marks=SLOW)])
CLOSED = {"stdin": "<&-", "stdout": ">&-", "all": "<&- >&- 2>&-", "a full disk": "2>/dev/full"}


def environment(**more: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("NESTLING_")}
    return inherited | {"PYTHONPATH": str(ROOT)} | more


class Begun:
    """A service that a command began, found by its port alone."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    def answers(self, path: str = "/readyz") -> bool:
        assert self.process.poll() in (None, NOT_ALLOWED), self.process.poll()
        if self.process.poll() == NOT_ALLOWED:
            give_up("user name spaces are not allowed here")
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(self.url + path, timeout=10, trust_env=False).status_code == 200
        return False

    def generate(self) -> httpx.Response:
        body = {"prompt": "a", "max_new_tokens": 3}
        return httpx.post(self.url + "/generate", json=body, timeout=30, trust_env=False)


@contextlib.contextmanager
def begun(
    volume: Path, engine: str, *, before: Sequence[str] = (), with_streams: str = ""
) -> Iterator[Begun]:
    """A service over a volume, until it serves; ``with_streams`` redirects its streams."""
    port = free_port()
    options = [f"--volume={volume}", f"--port={port}", f"--engine={engine}", "--threads=1"]
    program = [*before, sys.executable, "-m", "service", *options]
    shell = ["/bin/sh", "-c", f'exec "$@" {with_streams}', "sh", *program]
    with subprocess.Popen(shell, cwd=ROOT, env=environment()) as process:
        try:
            service = Begun(port, process)
            wait_until(service.answers, "it serves", timeout_s=60)
            yield service
        finally:
            process.kill()


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    volume = tmp_path_factory.mktemp("toys")
    publish_toy(volume, "toy", 1)
    return volume


def test_signals_that_mean_nothing_end_nothing(
    service: ServiceProcess, steady: SteadyClient
) -> None:
    def send_all() -> None:
        for number in signals.meaningless():
            os.kill(service.process.pid, number)

    alone = steady.alone(0.5)
    assert_unhurt(steady.during(send_all), alone)
    assert "SIGUSR1: nothing is measured; start with --profile" in service.log()


def test_signals_that_mean_nothing_end_no_process_of_several(toys: Path) -> None:
    with ServiceProcess(toys, engine="process") as service:
        service.wait_serving("toy@1")
        parent = psutil.Process(service.process.pid)
        family = [parent, *parent.children()]
        assert len(family) == 3
        for process in family:
            for number in signals.meaningless():
                process.send_signal(number)
        for process in family[1:]:  # what asks for a drain goes to the parent alone
            process.send_signal(signal.SIGPWR)
        time.sleep(0.2)
        assert [parent, *parent.children()] == family
        assert stream_generate(service.client, prompt="a", max_new_tokens=3).is_done
        service.signal(signal.SIGHUP)
        assert service.exit_code() == 0


@pytest.mark.parametrize(
    "number",
    [signal.SIGHUP, *(pytest.param(n, marks=SLOW) for n in (signal.SIGPWR, signal.SIGXCPU))],
    ids=str,
)
def test_what_announces_an_end_drains(toys: Path, number: signal.Signals) -> None:
    with ServiceProcess(toys, step_delay_s=0.01) as service:
        service.wait_serving("toy@1")
        with service.client.stream(
            "POST",
            "/generate",
            json={"prompt": "a", "max_new_tokens": 40, "stream": True, "ignore_eos": True},
        ) as stream:
            lines = stream.iter_lines()
            next(lines)
            service.signal(number)
            assert '"length"' in "".join(lines)
        assert service.exit_code() == 0


@SLOW
@BOTH
def test_under_nohup_a_hangup_is_nothing(toys: Path, engine: str) -> None:
    with begun(toys, engine, before=["/usr/bin/env", "--ignore-signal=HUP"]) as service:
        service.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert service.answers()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0


@ENGINES
def test_signals_in_quick_succession_end_it_with_0(toys: Path, engine: str) -> None:
    with begun(toys, engine) as service:
        while service.process.poll() is None:
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.002)
        assert service.process.returncode == 0


@SLOW
@pytest.mark.parametrize("delay_s", [0.5, 1.0, 2.0, 4.0])
@BOTH
def test_a_signal_at_any_time_of_the_start_ends_it_with_0(
    toys: Path, engine: str, delay_s: float
) -> None:
    options = [f"--volume={toys}", "--port=0", f"--engine={engine}", "--threads=1"]
    command = [sys.executable, "-m", "service", *options]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE) as process:
        time.sleep(delay_s)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said.decode()
    assert b"Traceback" not in said


@BOTH
@pytest.mark.parametrize(
    "streams", ["all", *(pytest.param(n, marks=SLOW) for n in CLOSED if n != "all")]
)
def test_closed_streams_and_a_full_disk_for_the_log_harm_nothing(
    toys: Path, engine: str, streams: str
) -> None:
    with begun(toys, engine, with_streams=CLOSED[streams]) as service:
        assert service.generate().status_code == 200
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0


@ENGINES
def test_a_user_without_home_and_name_can_serve(toys: Path, engine: str) -> None:
    with begun(toys, engine, before=[sys.executable, str(HOMELESS)]) as service:
        assert service.generate().status_code == 200
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0


@SLOW
def test_a_user_without_home_and_name_can_train(tmp_path: Path) -> None:
    train = ["-m", "trainer", "--recipe=tiny", "--smoke", f"--volume={tmp_path}"]
    done = subprocess.run(
        [sys.executable, str(HOMELESS), sys.executable, *train],
        cwd=ROOT,
        env=environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode == NOT_ALLOWED:
        give_up("user name spaces are not allowed here")
    assert (done.returncode, "is complete" in done.stderr) == (0, True), done.stderr


@BOTH
def test_a_port_in_use_is_found_before_anything_is_loaded(tmp_path: Path, engine: str) -> None:
    """The model is none: who loaded it first would say that."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = [f"--model={tmp_path}", f"--port={port}", f"--engine={engine}"]
        done = subprocess.run(
            [sys.executable, "-m", "service", *options],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"service: cannot listen on 127.0.0.1:{port}: the port is in use")


@ENGINES
def test_few_open_files_are_few_connections_and_no_failure(toys: Path, engine: str) -> None:
    """A steady stream runs on, health answers, and afterwards so does a newer checkpoint."""
    with begun(toys, engine, before=["/bin/sh", "-c", 'ulimit -n 96; exec "$@"', "sh"]) as service:
        host, port = service.url.removeprefix("http://").split(":")
        assert resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE) == (96, 96)
        with contextlib.ExitStack() as held:
            for _ in range(200):
                with contextlib.suppress(OSError):
                    held.enter_context(socket.create_connection((host, int(port)), timeout=5))
            wait_until(lambda: service.generate().status_code == 200, "it answers", timeout_s=30)
        assert service.answers("/checkpoints")
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0


def test_without_a_temporary_directory_one_line_says_what_needs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import tempfile

    from service.__main__ import main

    def none(*_: object, **__: object) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(tempfile, "mkdtemp", none)
    assert main(["--engine=process", "--port=0"]) == 2
    assert "engine=process needs a writable temporary directory" in capsys.readouterr().err
