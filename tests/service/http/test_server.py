"""Signals and exit codes of the real process."""

import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving import ServiceProcess, stream_generate, wait_until
from toys import publish_toy

from service.__main__ import main
from service.runtime import Runtime

STEP_DELAY_S = 0.02


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def make_service(volume: Path, **options: object) -> ServiceProcess:
    publish_toy(volume, "toy", 1)
    return ServiceProcess(volume, step_delay_s=STEP_DELAY_S, **options)


def wait_running(service: ServiceProcess) -> None:
    wait_until(lambda: service.metrics().value("num_requests_running") == 1, "a stream runs")


def test_sigterm_drains_and_exits_0(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with make_service(tmp_path) as service:
        service.wait_serving("toy@1")
        streaming = pool.submit(
            stream_generate, service.client, prompt="a", max_new_tokens=60, temperature=0
        )
        wait_running(service)
        service.signal(signal.SIGTERM)
        wait_until(lambda: service.client.get("/readyz").status_code == 503, "not ready any more")
        assert service.client.get("/readyz").json()["reason"] == "the service is shutting down"
        refused = service.client.post("/generate", json={"prompt": "a"})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        assert not streaming.done()
        stream = streaming.result()
        assert (stream.is_done, stream.final["finish_reason"]) == (True, "length")
        assert len(stream.token_ids) == 60
        assert service.exit_code() == 0
        assert "Traceback" not in service.log()
        assert "ERROR" not in service.log()


def test_a_second_sigint_ends_streams_now_and_still_exits_0(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    with make_service(tmp_path) as service:
        service.wait_serving("toy@1")
        streaming = pool.submit(
            stream_generate, service.client, prompt="a", max_new_tokens=250, temperature=0
        )
        wait_running(service)
        service.signal(signal.SIGINT)
        wait_until(lambda: "draining" in service.log(), "the first signal is heard")
        assert not streaming.done()
        began = time.monotonic()
        service.signal(signal.SIGINT)
        stream = streaming.result()
        assert stream.is_done
        assert stream.final["error"]["code"] == "draining"
        assert service.exit_code() == 0
        assert time.monotonic() - began < 250 * STEP_DELAY_S, "the stream was not waited for"
        assert "Traceback" not in service.log()


def test_a_port_that_is_taken_is_an_exit_with_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is loaded."""

    def refuse(*_: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(Runtime, "load", refuse)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--volume", str(tmp_path), "--port", str(port)]) == 1
    assert f"cannot listen on 127.0.0.1:{port}: the port is in use" in capsys.readouterr().err
