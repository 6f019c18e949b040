"""A pipe that nobody reads, where the log goes, stops nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from machine_tools import free_port
from serving import Exposition, wait_until
from toys import publish_toy

ROOT = Path(__file__).parents[2]
PIPE_BYTES = 4096
NUM_REQUESTS = 300
BODY = {"prompt": "ab", "max_new_tokens": 1}
MAX_WAITING = "import service.observe.log_pipe; service.observe.log_pipe.MAX_WAITING_BYTES = 8192; "
RUN = "import sys; from service.__main__ import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(params=["thread", "process"])
def unread(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, int, object]]:
    """Address of a service, the pipe's end that nobody reads, and the process."""
    import fcntl

    publish_toy(tmp_path, "toy", 1)
    read_end, write_end = os.pipe()
    fcntl.fcntl(read_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    port = free_port()
    options = {"volume": tmp_path, "port": port, "engine": request.param, "log_level": "debug"}
    options |= {"threads": 1, "dtype": "float64"}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-c", MAX_WAITING + RUN, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=write_end,
        stdout=write_end,
    )
    os.close(write_end)
    try:
        yield f"http://127.0.0.1:{port}", read_end, process
    finally:
        process.kill()
        process.wait()
        os.close(read_end)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_every_route_answers_and_a_signal_ends_it(unread: tuple[str, int, object]) -> None:
    url, read_end, process = unread
    assert isinstance(process, subprocess.Popen)
    wait_until(lambda: is_ready(url), "it serves", timeout_s=60)
    with httpx.Client(base_url=url, timeout=10) as client, ThreadPoolExecutor(4) as pool:
        posted = pool.map(lambda _: client.post("/generate", json=BODY), range(NUM_REQUESTS))
        assert {answer.status_code for answer in posted} == {200}
        for path in ("/healthz", "/readyz", "/v1/models", "/checkpoints", "/nothing"):
            began = time.monotonic()
            client.get(path)
            assert time.monotonic() - began < 1, path
        metrics = Exposition(client.get("/metrics").text)
    assert metrics.value("log_lines_dropped_total") > NUM_REQUESTS / 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert b"GET /readyz" in os.read(read_end, 1 << 16), "what was taken is whole lines"
