"""Damaged requests, byte by byte, over sockets: answered or hung up on, soon."""

import random
import re
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from fuzzing import unharmed
from serving import ServiceProcess

BODY = b'{"prompt": "ab", "max_new_tokens": 2}'
JSON = b"Host: test\r\nContent-Type: application/json\r\n"
OTHER_BODIES = {
    b"/v1/completions": b'{"prompt": ["ab", [5, 6]], "max_tokens": 2, "n": 2, "stream": true}',
    b"/v1/chat/completions": b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}',
    b"/": b'{"inputs": "ab", "parameters": {"max_new_tokens": 2}}',
    b"/generate_stream": b'{"inputs": "ab", "parameters": {"max_new_tokens": 2}}',
    b"/tokenize": b'{"prompt": "ab"}',
    b"/detokenize": b'{"tokens": [5, 6]}',
}
GOOD = (
    b"POST /generate HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (JSON, len(BODY), BODY),
    b"POST /generate HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
    % (JSON, len(BODY), BODY),
    b"POST /generate HTTP/1.1\r\n%sExpect: 100-continue\r\nContent-Length: %d\r\n\r\n%s"
    % (JSON, len(BODY), BODY),
    b"GET /v1/models/toy%401 HTTP/1.1\r\nHost: test\r\nX-Request-Id: a\r\n\r\n",
    b"GET /healthz HTTP/1.0\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: test\r\nAccept: application/openmetrics-text\r\n\r\n",
    b"GET /version HTTP/1.1\r\nHost: test\r\n\r\nGET /checkpoints HTTP/1.1\r\nHost: test\r\n\r\n",
    b"POST /checkpoints/reload HTTP/1.1\r\n%sAuthorization: Bearer x\r\nContent-Length: 2\r\n\r\n{}"
    % JSON,
    b"OPTIONS * HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"HEAD /docs HTTP/1.1\r\nHost: test\r\n\r\n",
    *(
        b"POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (path, JSON, len(body), body)
        for path, body in OTHER_BODIES.items()
    ),
)
SPLINTERS = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\xff\xfe", b"%", b"%00", b"%2e%2e/", b"/../..",
    b"Content-Length: -1\r\n", b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"HTTP/9.9",
    b"HTTP/1.1", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"http://other.example/", b"[" * 200,
    b"X-Request-Id: " + b"y" * 300 + b"\r\n", b"A" * 9000, b"X: y\r\n" * 400, b"\x80" * 40,
    b"ffffffffffffffff\r\n", b"-5\r\n", b"0\r\n\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"Connection: close\r\n", b"Range: bytes=0-1,5-2\r\n", b"Cookie: " + b"a=b;" * 500 + b"\r\n",
)  # fmt: skip
STATUS = re.compile(rb"(?:^|\r\n\r\n|})HTTP/1\.1 (\d{3}) ")


def damaged(chance: random.Random) -> bytes:
    """A good request with one to five injuries."""
    request = bytearray(chance.choice(GOOD))
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(request) + 1)
        end = min(len(request), at + chance.choice((0, 1, 1, 5, 40)))
        match chance.randrange(6):
            case 0:
                request[at:end] = b""
            case 1:
                request[at:end] = chance.choice(SPLINTERS)
            case 2:
                request[at:end] = chance.randbytes(end - at)
            case 3:
                request[at:at] = request[at:end] * chance.randint(1, 9)
            case 4:
                request[at:end] = chance.choice(GOOD)[at:]
            case _:
                del request[at:]
        request = request or bytearray(b"\r")
    return bytes(request)


def exchange(port: int, request: bytes) -> bytes:
    """Send it and read until the service hangs up, or has answered and says no more."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        try:
            client.sendall(request)
            while piece := client.recv(65536):
                received += piece
                client.settimeout(0.1)
        except TimeoutError:
            assert received, f"neither an answer nor an end: {request!r}"
        except (ConnectionResetError, BrokenPipeError):
            pass  # it was hung up on before it had sent everything
    return received


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_requests_get_an_answer_or_an_end(service: ServiceProcess, count: int) -> None:
    requests = [damaged(random.Random(number)) for number in range(count)]
    statuses: Counter[int] = Counter()
    with unharmed(service):
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda request: exchange(service.port, request), requests))
        for request, answer in zip(requests, answers, strict=True):
            found = [int(status) for status in STATUS.findall(answer)]
            statuses.update(found or [0])
            assert max(found, default=0) < 500, (request, answer)
    assert {200, 400, 404, 405, 408, 422} <= statuses.keys()


@pytest.mark.parametrize("request_", GOOD)
def test_undamaged_they_are_answered(service: ServiceProcess, request_: bytes) -> None:
    answer = exchange(service.port, request_)
    assert STATUS.search(answer), answer
