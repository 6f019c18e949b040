"""What is no body is counted: heads, targets, trailers, chunk extensions, bytes behind the end."""

import itertools
import time

import pytest
from serving import RawClient, ServiceProcess, SteadyClient, assert_unhurt

from service.http.connections.framing import MAX_HEAD_BYTES

GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"
CHUNKED = b"POST /generate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
PIECE_BYTES = 64 * 1024
DOSE_BYTES = 4 * 2**20
WHOLE_BYTES = 64 * 2**20
ATTACKS = {
    "many fields": (GET, b"a: b\r\n", 431),
    "empty fields": (GET, b"a:\r\n", 431),
    "names": (GET, b"a" * 1000 + b": b\r\n", 431),
    "one value": (GET + b"a: ", b"v" * 1000, 431),
    "one name": (GET, b"n" * 1000, 431),
    "a target": (b"GET /", b"u" * 1000, 414),
    "a query": (b"GET /healthz?", b"q=1&" * 250, 414),
    "a method": (b"", b"G" * 1000, 400),
    "blank lines": (b"", b"\r\n" * 500, 431),
    "trailers": (CHUNKED + b"1\r\n{\r\n0\r\n", b"a: b\r\n", 431),
    "one trailer": (CHUNKED + b"0\r\na: ", b"v" * 1000, 431),
    "an extension": (CHUNKED + b"1;x=", b"e" * 1000, 431),
    "chunks of one byte": (CHUNKED, b"1\r\n \r\n" * 100, 431),
    "extensions": (CHUNKED, b"1;x=" + b"e" * 90 + b"\r\n \r\n", 431),
    "behind a close": (GET + b"connection: close\r\n\r\n", b"x" * 1000, 200),
    "behind a whole request": (GET + b"\r\n", b"\r\n" * 500, 431),
}


def send_until_closed(port: int, begin: bytes, repeated: bytes, most_bytes: int) -> RawClient:
    """Send without end or pause; the client has what was answered."""
    client = RawClient(port)
    piece = repeated * (PIECE_BYTES // len(repeated))
    sent = 0
    try:
        client.send(begin)
        while sent < most_bytes:
            client.send(piece)
            sent += len(piece)
    except OSError:
        pass
    try:
        client.set_timeout(5)
        client.read_all()
    except OSError:
        pass
    finally:
        client.close()
    return client


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_is_refused_and_hung_up_on(service: ServiceProcess, attack: str) -> None:
    begin, repeated, status = ATTACKS[attack]
    client = RawClient(service.port)
    content = begin + repeated * (2 * MAX_HEAD_BYTES // len(repeated))
    for start in range(0, len(content), 8 * 1024):
        try:
            client.send(content[start : start + 8 * 1024])
        except ConnectionError:
            break
    client.read_all()  # until it is closed
    assert b"HTTP/1.1 %d " % status in client.received, client.received[:300]
    client.close()


@pytest.mark.parametrize("attack", ["many fields", "one value", "a target", "one trailer"])
@pytest.mark.parametrize("piece_bytes", [1, 7, 4096])
def test_in_pieces_of_any_size(service: ServiceProcess, attack: str, piece_bytes: int) -> None:
    begin, repeated, status = ATTACKS[attack]
    client = RawClient(service.port)
    content = begin + repeated * (MAX_HEAD_BYTES // len(repeated) + 2)
    with_pause = len(content) // 20 + 1
    for start in range(0, len(content), piece_bytes):
        try:
            client.send(content[start : start + piece_bytes])
        except ConnectionError:
            break
        if start % with_pause < piece_bytes:
            time.sleep(0.001)
    client.read_all()
    assert b"HTTP/1.1 %d " % status in client.received, client.received[:300]
    client.close()


def test_what_is_just_small_enough_is_answered(service: ServiceProcess) -> None:
    client = RawClient(service.port)
    client.send(GET + b"a: " + b"v" * (MAX_HEAD_BYTES - len(GET) - 7) + b"\r\n\r\n")
    assert client.read_until(b"}").startswith(b"HTTP/1.1 200")
    body = b'{"prompt": "ab", "max_new_tokens": 1}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    client.received = b""
    client.send(CHUNKED.replace(b"host", b"content-type: application/json\r\nhost"))
    client.send(chunks + b"0\r\nt: u\r\n\r\n" + GET + b"\r\n")
    assert client.read_until(b'"ok"').startswith(b"HTTP/1.1 200")
    client.close()


def besiege(service: ServiceProcess, seconds: float, most_bytes: int) -> None:
    """Every attack in turn, on connection after connection."""
    ends = time.monotonic() + seconds
    for begin, repeated, _ in itertools.cycle(ATTACKS.values()):
        if time.monotonic() > ends:
            return
        send_until_closed(service.port, begin, repeated, most_bytes)


def test_a_stream_beside_does_not_notice(service: ServiceProcess, steady: SteadyClient) -> None:
    alone = steady.alone()
    under = steady.during(lambda: besiege(service, 3.0, DOSE_BYTES))
    assert_unhurt(under, alone, settled_bytes=steady.resident_bytes())


@pytest.mark.slow
@pytest.mark.timeout(900)  # the weights are converted first
def test_a_stream_of_a_real_model_does_not_either(released_service: ServiceProcess) -> None:
    with SteadyClient(released_service) as steady:
        alone = steady.alone(3.0)
        under = steady.during(lambda: besiege(released_service, 30.0, WHOLE_BYTES))
        assert_unhurt(under, alone, settled_bytes=steady.resident_bytes())


@pytest.mark.parametrize(
    "head", [b"content-length: 1000000000000\r\n", b"transfer-encoding: chunked\r\n"]
)
def test_the_body_of_a_refused_request_ends_too(service: ServiceProcess, head: bytes) -> None:
    piece = b"%x\r\n%s\r\n" % (1 << 16, b" " * (1 << 16))
    begin = b"POST /nothing HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n"
    client, sent = RawClient(service.port), 0
    try:
        client.send(begin)
        while sent < 64 * 2**20:
            client.send(piece)
            sent += len(piece)
    except ConnectionError:
        pass
    assert sent < 16 * 2**20
    client.close()
