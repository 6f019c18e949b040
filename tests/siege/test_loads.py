"""Loads by name: those of clients that left are dropped, and a newer checkpoint goes first."""

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import ServiceProcess
from serving.waiting import wait_until
from toys import publish_toy, toy_weights

STEPS = range(10, 40)


@pytest.fixture(scope="module", params=["thread", pytest.param("process", marks=pytest.mark.slow)])
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


def next_step(volume: Path) -> int:
    """Newer than all that are there."""
    return STEPS[-1] + 100 * (1 + len(list((volume / "toy").iterdir())))


def assert_swap(under_s: float, alone_s: float) -> None:
    sys.stdout.write(f"siege: a swap in {under_s:.2f} s, {alone_s:.2f} s alone\n")
    assert under_s <= max(1.5, 4 * alone_s), f"{under_s:.2f} s, {alone_s:.2f} s alone"


@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_abandoned_loads_do_not_delay_a_swap(
    stepped: tuple[Path, ServiceProcess], count: int
) -> None:
    volume, service = stepped
    first = next_step(volume)
    alone = swap_s(volume, service, first)
    for number in range(count):
        abandon(service, STEPS[number % (len(STEPS) - 1)])
    assert_swap(swap_s(volume, service, first + 1), alone)
    answer = service.client.get("/healthz")
    assert answer.status_code == 200


def test_two_who_name_steps_twice_a_second_do_not_delay_a_swap(
    stepped: tuple[Path, ServiceProcess],
) -> None:
    volume, service = stepped
    first = next_step(volume)
    alone = swap_s(volume, service, first)
    url, left = f"http://127.0.0.1:{service.port}/v1/completions", threading.Event()
    statuses: list[int] = []

    def name_steps(number: int) -> None:
        """An honest client, which waits for each answer."""
        while not left.is_set():
            number = (number + 7) % (len(STEPS) - 1)
            body = {"prompt": "a", "max_tokens": 1, "model": f"toy@{STEPS[number]}"}
            statuses.append(httpx.post(url, json=body, timeout=60).status_code)
            left.wait(0.5)

    clients = [threading.Thread(target=name_steps, args=(number,)) for number in (0, 13)]
    for client in clients:
        client.start()
    try:
        time.sleep(2)
        under = swap_s(volume, service, first + 1)
    finally:
        left.set()
        for client in clients:
            client.join()
    assert_swap(under, alone)
    assert statuses.count(200) > len(statuses) / 2, statuses
    assert set(statuses) <= {200, 429, 503}, statuses


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
