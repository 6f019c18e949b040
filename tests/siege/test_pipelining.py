"""Requests that are sent ahead, and whose answers nobody reads, are not taken in."""

import contextlib
import socket
import time

import psutil
import pytest
from serving import RawClient, ServiceProcess, SteadyClient, assert_unhurt

from service.http.connections.connection import READ_BYTES

REQUEST = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
NUM_CONNECTIONS = 8
DOSE, WHOLE = 100_000, 400_000
"""Requests on all connections together."""
KEPT_BYTES = 16 * 2**20
"""What all of these connections may take meanwhile, the kernel's buffers not counted."""


def send_ahead(port: int, num_requests: int, hold_s: float) -> int:
    """Send what is taken and read nothing for a while; bytes that were taken."""
    sent = 0
    with contextlib.ExitStack() as opened:
        clients = []
        for _ in range(NUM_CONNECTIONS):
            client = socket.socket()
            opened.enter_context(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.setblocking(False)
            clients.append([client, REQUEST * (num_requests // NUM_CONNECTIONS)])
        ends = time.monotonic() + hold_s
        while time.monotonic() < ends:
            for one in clients:
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    count = one[0].send(one[1][: 1 << 18])
                    one[1] = one[1][count:]
                    sent += count
            time.sleep(0.01)
    return sent


def besiege(service: ServiceProcess, steady: SteadyClient, num_requests: int) -> None:
    alone = steady.alone()
    held: list[int] = []

    def attack() -> None:
        send_ahead(service.port, num_requests, 2.0)
        held.append(steady.resident_bytes())

    under = steady.during(attack)
    assert_unhurt(under, alone, settled_bytes=steady.resident_bytes())
    assert held[0] - alone.resident_bytes < KEPT_BYTES


def test_a_stream_beside_does_not_notice(service: ServiceProcess, steady: SteadyClient) -> None:
    besiege(service, steady, DOSE)


@pytest.mark.slow
@pytest.mark.timeout(900)  # the weights are converted first
def test_a_stream_of_a_real_model_does_not_either(released_service: ServiceProcess) -> None:
    with SteadyClient(released_service) as steady:
        besiege(released_service, steady, WHOLE)


def test_whoever_reads_gets_every_answer_in_order(service: ServiceProcess) -> None:
    names = [f"n{number}" for number in range(4 * READ_BYTES // 60)]
    client = RawClient(service.port)
    asked = b"".join(
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-request-id: %s\r\n\r\n" % name.encode()
        for name in names
    )
    client.send(asked)
    last = b"x-request-id: %s\r\n" % names[-1].encode()
    while last not in client.received[-4096:]:
        client.read_some()
    answered = [
        line.split()[1].decode()
        for line in client.received.split(b"\r\n")
        if line.startswith(b"x-request-id: ")
    ]
    assert answered == names
    client.close()


def test_a_client_that_sent_ahead_and_leaves_frees_its_slot(service: ServiceProcess) -> None:
    body = {"prompt": "ab", "max_new_tokens": 200, "stream": True, "ignore_eos": True}
    client = RawClient.generate(service.port, **body)
    client.read_until(b"data: ")
    client.send(REQUEST * 20)
    client.reset()
    ends = time.monotonic() + 3
    while service.metrics().value("num_requests_running"):
        assert time.monotonic() < ends, "it goes on"
        time.sleep(0.02)


def test_few_connections_of_the_service_are_left(service: ServiceProcess) -> None:
    time.sleep(0.5)
    open_ones = [
        one
        for one in psutil.Process(service.process.pid).net_connections()
        if one.status == psutil.CONN_ESTABLISHED
    ]
    assert len(open_ones) < NUM_CONNECTIONS
