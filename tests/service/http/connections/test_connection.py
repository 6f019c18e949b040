"""Clients that are slow, idle, too many or no clients at all."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import GatedService, LiveService, RawClient, toy_settings, wait_until
from toys import publish_toy

TIMEOUT_S = 0.4
HEAD = b"POST /generate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """Impatient, and with few connections."""
    volume = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "toy", 1)
    settings = toy_settings(volume, client_timeout_s=TIMEOUT_S, max_connections=8)
    with LiveService(settings) as service:
        service.wait_ready()
        yield service


def hung_up_after(client: RawClient, drip: bytes = b"") -> float:
    """Seconds until the service closes, while single bytes are sent."""
    began = time.monotonic()
    client.set_timeout(0.05)
    while True:
        try:
            if not client.read_piece():
                return time.monotonic() - began
        except TimeoutError:
            assert time.monotonic() - began < 20 * TIMEOUT_S, "it is let be"
            client.send(drip)
        except (ConnectionResetError, BrokenPipeError):
            return time.monotonic() - began


def error_of(client: RawClient) -> tuple[int, str]:
    """Status and code of a raw answer."""
    head, _, body = client.received.partition(b"\r\n\r\n")
    assert b"x-content-type-options: nosniff" in head
    assert b"x-request-id: " in head
    return int(head.split()[1]), json.loads(body)["error"]["code"]


@pytest.mark.parametrize(
    ("sent", "drip"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: test\r\n", b"X-a: b\r\n"),
        (HEAD, b"X"),
        (HEAD + b"Content-Length: 5000\r\n\r\n{", b" "),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ],
    ids=["head", "header", "body", "chunks"],
)
def test_a_request_that_drips_is_408(strict: LiveService, sent: bytes, drip: bytes) -> None:
    client = RawClient(strict.port)
    client.send(sent)
    assert hung_up_after(client, drip) >= TIMEOUT_S / 2
    assert error_of(client) == (408, "request_timeout")
    client.close()


@pytest.mark.parametrize("drip", [b"", b"\r\n"])
def test_a_connection_without_a_request_is_closed(strict: LiveService, drip: bytes) -> None:
    client = RawClient(strict.port)
    hung_up_after(client, drip)
    assert client.received == b""
    client.close()


def test_the_second_request_of_a_connection_may_not_drip_either(strict: LiveService) -> None:
    client = RawClient(strict.port)
    client.send(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n")
    client.read_until(b'"ok"')
    client.send(b"GET /healthz HTTP/1.1\r\n")
    hung_up_after(client, b"X-a: b\r\n")
    assert b"HTTP/1.1 408" in client.received
    client.close()


def test_an_answer_that_takes_long_is_not_cut_off(tmp_path: Path) -> None:
    with GatedService(tmp_path, client_timeout_s=0.1) as gated:
        client = RawClient.generate(gated.port, prompt="01", max_new_tokens=2, seed=1)
        client.send(b"GET /healthz HTTP/1.1\r\n")  # half a request after it
        gated.wait_for_steps(1)
        time.sleep(0.35)
        gated.decoder.open()
        assert b'"finish_reason":"length"' in client.read_until(b'"}')
        hung_up_after(client)
        client.close()


def test_who_does_not_read_is_cut_off(strict: LiveService) -> None:
    client = RawClient(strict.port, receive_buffer=4096)
    for _ in range(30):
        client.send(b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: test\r\n\r\n")
    wait_until(lambda: not num_connections(strict), "it is cut off", timeout_s=20)
    client.close()


def num_connections(service: LiveService) -> int:
    return len(service._server.server_state.connections)


def test_idle_and_slow_clients_keep_nobody_out(strict: LiveService) -> None:
    crowd = []
    for number in range(40):
        client = RawClient(strict.port)
        client.send(b"" if number % 2 else HEAD)
        crowd.append(client)
        if number % 8 == 7:
            with httpx.Client(base_url=strict.client.base_url, timeout=5) as fresh:
                body = {"prompt": "a", "max_new_tokens": 1}
                assert fresh.post("/generate", json=body).status_code == 200
    assert num_connections(strict) <= 8 + 1
    for client in crowd:
        client.close()


def test_who_is_being_answered_is_not_closed_for_others(tmp_path: Path) -> None:
    with GatedService(tmp_path, max_connections=2) as gated:
        clients = [RawClient.generate(gated.port, prompt="01", seed=1) for _ in range(2)]
        wait_until(lambda: gated.runtime.switchboard.num_open == 2, "both are accepted")
        third = RawClient(gated.port)
        third.read_all()
        assert error_of(third) == (503, "too_many_connections")
        gated.decoder.open()
        for client in clients:
            assert client.read_until(b'"}').startswith(b"HTTP/1.1 200")
        for client in (*clients, third):
            client.close()


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\0" * 50, b"HELLO\r\n\r\n"],
    ids=["tls", "no path", "zeros", "words"],
)
def test_what_is_no_http_is_400(strict: LiveService, sent: bytes) -> None:
    client = RawClient(strict.port)
    client.send(sent)
    client.read_all()
    assert error_of(client) == (400, "invalid_request")
    client.close()


@pytest.mark.parametrize("second", [b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n", b"\0\0\0"])
def test_a_request_behind_another_does_not_hide_that_the_client_leaves(
    tmp_path: Path, second: bytes
) -> None:
    with GatedService(tmp_path) as gated:
        client = RawClient.generate(gated.port, prompt="01", stream=True, seed=1)
        gated.decoder.release(3)
        client.read_until(b"data: ")
        client.send(second)
        client.reset()
        gated.wait_for_commands(2)
        gated.decoder.open()
        wait_until(lambda: gated.is_quiet, "it is given up")
        outcomes = gated.metrics().by_label("requests_total", "outcome")
        assert outcomes["abort"] == 1
