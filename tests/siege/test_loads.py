"""Loads by name: those of clients that left are dropped, and a newer checkpoint goes first."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import ServiceProcess
from serving.waiting import wait_until
from toys import publish_toy, toy_weights

STEPS = range(10, 40)


@pytest.fixture(scope="module", params=["thread", "process"])
def stepped(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Path, ServiceProcess]]:
    volume = tmp_path_factory.mktemp("stepped")
    for step in STEPS:
        publish_toy(volume, "toy", step)
    with ServiceProcess(volume, engine=request.param) as service:
        service.wait_serving(f"toy@{STEPS[-1]}")
        yield volume, service


def abandon(service: ServiceProcess, step: int) -> None:
    """Name a step and leave."""
    body = json.dumps({"prompt": "a", "max_tokens": 1, "model": f"toy@{step}"}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n"
    head += "content-type: application/json\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(0.002)


def swap_s(volume: Path, service: ServiceProcess, step: int) -> float:
    """Seconds from a step's appearing until it serves."""
    publish_toy(volume, "toy", step, weights=toy_weights(step))
    began = time.monotonic()
    service.wait_serving(f"toy@{step}")
    return time.monotonic() - began


def test_abandoned_loads_do_not_delay_a_swap(stepped: tuple[Path, ServiceProcess]) -> None:
    volume, service = stepped
    first = STEPS[-1] + 100 * (1 + len(list((volume / "toy").iterdir())))
    alone = swap_s(volume, service, first)
    for number in range(300):
        abandon(service, STEPS[number % (len(STEPS) - 1)])
    under = swap_s(volume, service, first + 1)
    assert under <= max(1.5, 4 * alone), f"{under:.2f} s, {alone:.2f} s alone"
    answer = service.client.get("/healthz")
    assert answer.status_code == 200


def test_loads_of_clients_that_left_are_not_begun(stepped: tuple[Path, ServiceProcess]) -> None:
    _, service = stepped
    before = service.metrics().value("checkpoint_load_seconds_count")
    for number in range(200):
        abandon(service, STEPS[number % (len(STEPS) - 1)])
    time.sleep(0.5)
    url = f"http://127.0.0.1:{service.port}/v1/completions"
    body = {"prompt": "a", "max_tokens": 1, "model": f"toy@{STEPS[3]}"}
    wait_until(
        lambda: httpx.post(url, json=body, timeout=60).status_code == 200,
        "a client that stays is served",
        timeout_s=20,
    )
    after = service.metrics().value("checkpoint_load_seconds_count")
    assert after - before < 100
