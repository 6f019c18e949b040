"""Clients of every kind at once: whatever they do, everything is given back."""

import itertools
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving import (
    LiveService,
    RawClient,
    ServiceProcess,
    Stream,
    stream_generate,
    toy_settings,
    wait_until,
)
from toys import publish_toy

from service.engine.request import GenerationRequest
from service.engine.served_model import ServedModel

NUM_CLIENTS = 60


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    volume: Path = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "toy", 1)
    settings = toy_settings(volume, num_slots=3, max_step_tokens=8, max_body_bytes=10_000)
    with LiveService(settings) as service:
        service.wait_ready()
        yield service


def stay(service: LiveService, chance: random.Random) -> bytes:
    """Read the whole answer."""
    client = RawClient.generate(
        service.port, prompt="ab", max_new_tokens=chance.randint(1, 20), stream=True
    )
    received = client.read_until(b"data: [DONE]\n\n")
    client.close()
    return received


def leave_at_once(service: LiveService, chance: random.Random) -> bytes:
    """Ask and go."""
    RawClient.generate(service.port, prompt="ab" * chance.randint(1, 60), stream=True).close()
    return b""


def leave_after_a_token(service: LiveService, chance: random.Random) -> bytes:
    """Read a little, then reset."""
    client = RawClient.generate(service.port, prompt="ab", max_new_tokens=200, stream=True)
    received = client.read_until(b"data: ")
    client.reset()
    return received


def leave_the_whole_answer(service: LiveService, chance: random.Random) -> bytes:
    """Ask for all at once and reset."""
    RawClient.generate(service.port, prompt="ab", max_new_tokens=200).reset()
    return b""


def leave_the_body(service: LiveService, chance: random.Random) -> bytes:
    """Promise a body and go."""
    client = RawClient(service.port)
    client.send(b"POST /generate HTTP/1.1\r\nHost: test\r\nContent-Length: 500\r\n\r\n{")
    client.close()
    return b""


def talk_nonsense(service: LiveService, chance: random.Random) -> bytes:
    """Send what is no HTTP."""
    client = RawClient(service.port)
    client.send(chance.randbytes(200) + b"\r\n\r\n")
    client.close()
    return b""


BEHAVIOURS = (
    stay,
    leave_at_once,
    leave_after_a_token,
    leave_the_whole_answer,
    leave_the_body,
    talk_nonsense,
)


def test_after_a_crowd_of_rude_clients_everything_is_as_before(
    service: LiveService, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[str] = []
    worker = service.runtime.worker
    submit = worker.submit

    def counting_submit(model: ServedModel, request: GenerationRequest) -> None:
        submitted.append(request.request_id)
        submit(model, request)

    monkeypatch.setattr(worker, "submit", counting_submit)
    before = service.metrics().total("requests_total")

    def behave(number: int) -> tuple[str, bytes]:
        behaviour = BEHAVIOURS[number % len(BEHAVIOURS)]
        return behaviour.__name__, behaviour(service, random.Random(number))

    with ThreadPoolExecutor(12) as pool:
        stories = list(pool.map(behave, range(NUM_CLIENTS)))
    wait_until(lambda: service.is_quiet, "everything is given back")
    for name, received in stories:
        assert b"error" not in received, name
        assert (b"finish_reason" in received) == (name == "stay")
    metrics = service.metrics()
    assert metrics.value("kv_cache_usage_ratio") == 0
    outcomes = metrics.by_label("requests_total", "outcome")
    assert sum(outcomes.values()) - before == len(submitted), "every accepted one has its end"
    assert outcomes["abort"] > 0
    assert outcomes["error"] == outcomes["timeout"] == 0
    assert service.client.post("/generate", json={"prompt": "a"}).status_code == 200


@pytest.mark.alone
def test_two_hundred_that_give_up_leave_room_for_one_at_once(tmp_path: Path) -> None:
    """Each would take minutes; all leave after half a second, some by half a farewell."""
    publish_toy(tmp_path, "toy", 1)
    with ServiceProcess(tmp_path, step_delay_s=0.02, max_waiting_tokens=10**6) as service:
        service.wait_serving("toy@1")
        crowd = [
            RawClient.generate(
                service.port,
                prompt="ab" * (1 + number % 20),
                max_new_tokens=200,
                stream=number % 2 == 0,
                seed=number,
            )
            for number in range(200)
        ]
        wait_until(lambda: service.metrics().value("num_requests_waiting") > 100, "most wait")
        time.sleep(0.5)
        for number, client in enumerate(crowd):
            (client.close, client.reset, client.half_close)[number % 3]()
        began = time.monotonic()
        body = {"prompt": "ab", "max_new_tokens": 3, "seed": 1}
        assert service.client.post("/generate", json=body).status_code == 200
        assert time.monotonic() - began < 1.0
        for client in crowd:
            client.close()
        metrics = service.metrics()
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_ratio"):
            assert metrics.value(name) == 0, name
        outcomes = metrics.by_label("requests_total", "outcome")
        assert outcomes["abort"] >= 190, "a few may have met an end token"
        assert sum(outcomes.values()) == 201
        assert outcomes["timeout"] == outcomes["error"] == 0


def test_a_client_that_does_not_read_holds_nobody_up(service: LiveService) -> None:
    sleeper = RawClient.generate(service.port, prompt="ab", max_new_tokens=250, stream=True)
    sleeper.read_until(b"HTTP/1.1 200")
    with ThreadPoolExecutor(4) as pool:
        streams: list[Stream] = list(
            pool.map(
                lambda seed: stream_generate(
                    service.client, prompt="ab", max_new_tokens=20, seed=seed
                ),
                range(8),
            )
        )
    assert all(stream.is_done for stream in streams)
    sleeper.close()
    wait_until(lambda: service.is_quiet, "everything is given back")


def test_a_connection_may_carry_many_requests(service: LiveService) -> None:
    """Answers, streams and refusals one after another on one connection."""
    for seed, kind in itertools.product(range(3), ("whole", "stream", "refused")):
        if kind == "stream":
            stream = stream_generate(service.client, prompt="ab", max_new_tokens=3, seed=seed)
            assert stream.is_done
            continue
        body = {"prompt": "ab", "max_new_tokens": 3 if kind == "whole" else -3, "seed": seed}
        response = service.client.post("/generate", json=body)
        assert response.status_code == (200 if kind == "whole" else 422)
