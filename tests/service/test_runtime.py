import asyncio
import gc
import logging
import sys
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from serving import GatedService, stream_generate, toy_engine, toy_served, toy_settings, wait_until
from starlette.testclient import TestClient
from toys import publish_toy, toy_decoder

from service.errors import NotReady
from service.http.app import app_over
from service.runtime import Runtime, loader_options


def begin_drain(service: GatedService) -> "Future[None]":
    loop = service.runtime._loop
    assert loop is not None
    return asyncio.run_coroutine_threadsafe(service.runtime.drain(), loop)


def test_without_a_model_the_reason_is_given(tmp_path: Path) -> None:
    runtime = Runtime(toy_settings(tmp_path / "volume"))
    with pytest.raises(NotReady, match="no model is served yet: no run with a complete"):
        runtime.model()


def test_an_unknown_device_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown device 'abacus'"):
        Runtime(toy_settings(tmp_path, device="abacus"))


def test_hidden_gpus_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with caplog.at_level(logging.INFO, logger="service.runtime"):
        assert loader_options(toy_settings(tmp_path)).backend.device.type == "cpu"
    assert [record.message for record in caplog.records] == [
        "CUDA_VISIBLE_DEVICES is empty: a CPU serves"
    ]


def test_a_model_is_loaded_before_anybody_can_be_answered(tmp_path: Path) -> None:
    """While the web framework is imported, and with the switch interval that was asked for."""
    publish_toy(tmp_path, "toy", 1)
    before = sys.getswitchinterval()
    runtime = Runtime(toy_settings(tmp_path, switch_interval_s=0.002))
    try:
        runtime.load()
        assert sys.getswitchinterval() == pytest.approx(0.002)
        wait_until(lambda: runtime.worker.current is not None, "the model is loaded")
    finally:
        runtime.watcher.stop()
        sys.setswitchinterval(before)
    with TestClient(app_over(runtime)) as client:
        assert client.get("/readyz").status_code == 200
        answer = client.post("/generate", json={"prompt": "To be", "max_new_tokens": 2})
        assert answer.status_code == 200


def test_draining_waits_for_what_was_accepted(tmp_path: Path) -> None:
    with GatedService(tmp_path) as service, ThreadPoolExecutor() as pool:
        streaming = pool.submit(
            stream_generate, service.client, prompt="01", max_new_tokens=4, temperature=0
        )
        service.wait_for_steps(1)
        drained = begin_drain(service)
        wait_until(lambda: service.runtime.admission.is_draining, "the door closes")
        assert service.client.post("/generate", json={"prompt": "a"}).status_code == 503
        assert not drained.done()
        service.decoder.open()
        drained.result(20)
        assert streaming.result().final["finish_reason"] == "length"


def test_draining_for_too_long_aborts_and_tells(tmp_path: Path) -> None:
    with (
        GatedService(tmp_path, drain_timeout_s=0.05, num_slots=1) as service,
        ThreadPoolExecutor() as pool,
    ):
        streaming = pool.submit(stream_generate, service.client, prompt="01", seed=1)
        service.decoder.release(2)
        service.wait_for_steps(3)
        waiting = pool.submit(service.client.post, "/generate", json={"prompt": "01"})
        wait_until(lambda: service.runtime.switchboard.num_open == 2, "the second waits")
        begin_drain(service).result(20)
        service.decoder.open()
        assert streaming.result().final["error"]["code"] == "draining"
        assert waiting.result().status_code == 503
        assert waiting.result().json()["error"]["code"] == "draining"
        wait_until(lambda: service.runtime.switchboard.num_open == 0, "nothing is left")


def test_an_idle_service_has_drained_at_once(tmp_path: Path) -> None:
    with GatedService(tmp_path) as service:
        begin_drain(service).result(20)
        assert service.runtime.admission.is_draining


def test_stopping_ends_the_threads(tmp_path: Path) -> None:
    with GatedService(tmp_path):
        names = {thread.name for thread in threading.enumerate()}
        assert {"engine", "watcher"} <= names
    names = {thread.name for thread in threading.enumerate()}
    assert not {"engine", "watcher"} & names


def test_a_swapped_out_model_is_freed_after_its_last_stream(tmp_path: Path) -> None:
    with GatedService(tmp_path) as service, ThreadPoolExecutor() as pool:
        freed = weakref.ref(service.decoder)
        streaming = pool.submit(
            stream_generate, service.client, prompt="01", max_new_tokens=3, temperature=0
        )
        service.wait_for_steps(1)
        service.runtime.worker.flip(toy_served(toy_engine(toy_decoder(2).double()), step=2))
        assert service.runtime.worker.num_models == 2
        service.decoder.open()
        assert streaming.result().final["checkpoint"]["name"] == "toy@1"
        service.forget_model()

        def is_freed() -> bool:
            gc.collect()
            return freed() is None

        wait_until(is_freed, "the old weights are freed")
        assert service.runtime.worker.num_models == 1
        answer = service.client.post("/generate", json={"prompt": "01"}).json()
        assert answer["checkpoint"]["name"] == "toy@2"


def test_what_has_not_drained_in_time_is_ended_and_told(tmp_path: Path) -> None:
    with GatedService(tmp_path, swap_drain_s=0.0) as service, ThreadPoolExecutor() as pool:
        streaming = pool.submit(stream_generate, service.client, prompt="01", seed=1)
        service.decoder.release(2)
        service.wait_for_steps(3)
        new = toy_served(toy_engine(toy_decoder(2).double()), step=2)
        service.runtime.residency.take_over(new)
        service.wait_for_looks()
        service.decoder.open()
        stream = streaming.result()
        assert stream.final["error"]["code"] == "deadline_exceeded"
        assert stream.final["error"]["message"] == "toy@1 was replaced too long ago"
        assert len(stream.token_ids) >= 2
        answer = service.client.post("/generate", json={"prompt": "01"}).json()
        assert answer["checkpoint"]["name"] == "toy@2"
        outcomes = service.metrics().by_label("requests_total", "outcome")
        assert outcomes["timeout"] == 1


def test_a_volume_that_cannot_be_listed_is_no_bug(tmp_path: Path) -> None:
    (tmp_path / "volume").write_text("no directory")
    with GatedService(tmp_path / "volume") as service:
        service.decoder.open()
        wait_until(lambda: service.runtime.watcher.problem, "the problem is seen")
        response = service.client.post("/generate", json={"prompt": "a", "model": "toy@9"})
        assert response.status_code == 503
        assert "cannot read the volume" in response.json()["error"]["message"]
        listed = service.client.get("/checkpoints").json()
        assert "Not a directory" in listed["problem"]
        assert service.metrics().value("volume_readable") == 0
        assert service.client.post("/generate", json={"prompt": "a"}).status_code == 200
