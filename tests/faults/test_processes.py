"""Engine and HTTP in processes of their own: what one's end means for the others."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from serving import RawClient, ServiceProcess, Stream, stream_generate, wait_until
from toys import publish_toy

from service.http.sockets import listen_together

ROOT = Path(__file__).parents[2]
STEP_DELAY_S = 0.02
NUM_WORKERS = 2
SERVICE = [sys.executable, "-m", "service"]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(12) as pool:
        yield pool


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    publish_toy(tmp_path, "toy", 1)
    options = {"engine": "process", "http_workers": NUM_WORKERS, "num_slots": 4}
    with ServiceProcess(tmp_path, step_delay_s=STEP_DELAY_S, **options) as service:
        service.wait_serving("toy@1")
        yield service


def workers(service: ServiceProcess) -> list[int]:
    """Process ids of all HTTP processes that have ever started."""
    return [int(one) for one in re.findall(r"Started server process \[(\d+)\]", service.log())]


def children(service: ServiceProcess) -> set[int]:
    pid = service.process.pid
    return {int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def engine(service: ServiceProcess) -> int:
    (pid,) = children(service) - set(workers(service))
    return pid


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def open_streams(service: ServiceProcess, count: int, max_new_tokens: int) -> list[RawClient]:
    """Streams that have begun, each on a connection of its own."""
    clients = [
        RawClient.generate(
            service.port, prompt="ab", max_new_tokens=max_new_tokens, stream=True, temperature=0
        )
        for _ in range(count)
    ]
    for client in clients:
        client.read_until(b"token_id")
    return clients


def read_all(client: RawClient) -> bytes:
    """Everything until the stream or the connection ends."""
    with contextlib.suppress(ConnectionResetError):
        while b"[DONE]" not in client.received and client.read_piece():
            pass
    client.close()
    return client.received


def test_only_clients_of_an_http_process_notice_its_end(
    service: ServiceProcess, pool: ThreadPoolExecutor
) -> None:
    streams = open_streams(service, 4, max_new_tokens=60)
    victim = workers(service)[0]
    os.kill(victim, signal.SIGKILL)
    received = [one.result() for one in [pool.submit(read_all, client) for client in streams]]
    whole = [b"[DONE]" in one for one in received]
    wait_until(lambda: len(workers(service)) == NUM_WORKERS + 1, "it is begun again")
    assert all(b'"error"' not in one for one in received)
    with ThreadPoolExecutor(8) as others:
        bodies = [{"prompt": "ab", "max_new_tokens": 2}] * 8
        url = f"{service.client.base_url}/generate"
        answers = list(others.map(lambda body: httpx.post(url, json=body, timeout=30), bodies))
    assert [answer.status_code for answer in answers] == [200] * 8
    wait_until(lambda: service.metrics().value("num_requests_running") == 0, "slots are freed")
    outcomes = service.metrics().by_label("requests_total", "outcome")
    assert (outcomes["length"] + outcomes["stop"], outcomes["abort"]) == (
        8 + whole.count(True),
        whole.count(False),
    )
    assert service.process.poll() is None
    service.signal(signal.SIGTERM)
    assert service.exit_code() == 0


def test_an_engine_that_dies_ends_every_stream_with_an_error_and_the_service(
    service: ServiceProcess, pool: ThreadPoolExecutor
) -> None:
    streams = open_streams(service, 4, max_new_tokens=250)
    waiting = pool.submit(
        stream_generate, service.client, prompt="ab", max_new_tokens=250, temperature=0
    )
    wait_until(lambda: service.metrics().value("num_requests_waiting") == 1, "one waits")
    os.kill(engine(service), signal.SIGKILL)
    health = service.client.get("/healthz")
    ends = [one.result() for one in [pool.submit(read_all, client) for client in streams]]
    assert (health.status_code, health.json()["status"]) == (503, "broken")
    for end in ends:
        assert b'"code":"generation_failed"' in end
        assert b"[DONE]" in end
    assert waiting.result().status == 500
    assert service.exit_code() == 1
    assert "Traceback" not in service.log()


def test_sigterm_drains_all_processes(service: ServiceProcess, pool: ThreadPoolExecutor) -> None:
    streams = open_streams(service, 4, max_new_tokens=60)
    processes = children(service)
    assert len(processes) == NUM_WORKERS + 1
    service.signal(signal.SIGTERM)
    ends = [one.result() for one in [pool.submit(read_all, client) for client in streams]]
    assert all(b'"finish_reason":"length"' in end and b"[DONE]" in end for end in ends)
    assert service.exit_code() == 0
    assert not any(map(is_alive, processes))
    assert "ERROR" not in service.log()


def test_nothing_outlives_the_parent(service: ServiceProcess) -> None:
    streams = open_streams(service, 2, max_new_tokens=250)
    processes = children(service)
    service.signal(signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, processes)), "all have ended", timeout_s=30)
    for client in streams:
        client.close()


def test_limits_hold_over_all_http_processes(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    publish_toy(tmp_path, "toy", 1)
    limits = {"num_slots": 2, "max_step_tokens": 16, "max_waiting_requests": 2}
    options = {"engine": "process", "http_workers": 3, **limits}
    with ServiceProcess(tmp_path, step_delay_s=STEP_DELAY_S, **options) as service:
        service.wait_serving("toy@1")

        def ask(_: int) -> Stream:
            with httpx.Client(base_url=service.client.base_url, timeout=60) as client:
                return stream_generate(client, prompt="ab", max_new_tokens=250, temperature=0)

        asked: list[Future[Stream]] = [pool.submit(ask, number) for number in range(10)]
        answers = [one.result() for one in asked]
        accepted = [answer for answer in answers if answer.status == 200]
        refused = [answer for answer in answers if answer.status != 200]
        assert len(accepted) == 4
        assert all(answer.is_done for answer in accepted)
        assert {answer.status for answer in refused} == {429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        metrics = service.metrics()
        assert metrics.by_label("admission_rejections_total", "reason") == {"queue_full": 6}
        assert metrics.total("requests_total") == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine=process", "--model=/nowhere"], "model /nowhere: neither a directory nor"),
        (["--engine=process", "--device=abacus"], "unknown device 'abacus'"),
        (["--engine=thread", "--http-workers=2"], "http_workers above 1 need engine=process"),
    ],
)
def test_options_without_sense_are_one_line(arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [*SERVICE, "--port=0", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"service: {said}")


def test_a_port_that_is_taken_is_an_exit_with_an_error(tmp_path: Path) -> None:
    """Also by another service of ours, whose sockets share a port among themselves."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(one) for one in listen_together("127.0.0.1", 0, 2)]
        port = taken[0].getsockname()[1]
        done = subprocess.run(
            [*SERVICE, "--engine=process", f"--port={port}", f"--volume={tmp_path}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert "cannot listen on 127.0.0.1" in done.stderr
