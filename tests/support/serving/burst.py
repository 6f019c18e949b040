"""Many requests at once, from one thread: all are sent before the first answer is read."""

import http.client
import io
import json
import socket
import time
from collections.abc import Sequence
from typing import Any

TIMEOUT_S = 120.0


def request_bytes(route: str, body: bytes | dict[str, Any], headers: str = "") -> bytes:
    """One whole ``POST``, on a connection that ends with it."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"POST {route} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n{headers}"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def volley(port: int, requests: Sequence[bytes]) -> list[int]:
    """Statuses of requests that are sent together."""
    return [status for status, _ in answers(port, requests)]


def answers(port: int, requests: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Statuses and bodies of requests that are sent together."""
    return [_read(sock) for sock in _sent(port, requests)]


def abandon(port: int, requests: Sequence[bytes], after_s: float = 0.0) -> None:
    """Send requests whole and hang up, at once or after some time."""
    socks = _sent(port, requests)
    time.sleep(after_s)
    for sock in socks:
        sock.close()


def _sent(port: int, requests: Sequence[bytes]) -> list[socket.socket]:
    socks = [socket.create_connection(("127.0.0.1", port), TIMEOUT_S) for _ in requests]
    for sock, request in zip(socks, requests, strict=True):
        sock.sendall(request)
    return socks


def _read(sock: socket.socket) -> tuple[int, bytes]:
    with sock:
        content = b""
        while part := sock.recv(1 << 16):
            content += part
    response = http.client.HTTPResponse(_Canned(content))  # type: ignore[arg-type]
    response.begin()
    return response.status, response.read()


class _Canned:
    """What was read, as ``http.client`` wants it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, mode: str) -> io.BytesIO:
        assert mode == "rb", "it is only read"
        return io.BytesIO(self._content)
