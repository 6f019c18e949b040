"""A client at the level of the socket: sends half a request, leaves rudely."""

import json
import socket
import struct
from typing import Any, Self


class RawClient:
    """One connection."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self._socket = socket.socket()
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(20)
        self._socket.connect(("127.0.0.1", port))
        self.received = b""

    @classmethod
    def generate(cls, port: int, **body: Any) -> Self:
        """A connection on which ``POST /generate`` has been sent."""
        client = cls(port)
        content = json.dumps(body).encode()
        client.send(
            b"POST /generate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(content), content)
        )
        return client

    def send(self, content: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(content)

    def set_timeout(self, seconds: float) -> None:
        """How long to wait for anything from now on."""
        self._socket.settimeout(seconds)

    def read_piece(self) -> bytes:
        """Read what is there; empty once the service has closed the connection."""
        piece = self._socket.recv(65536)
        self.received += piece
        return piece

    def read_until(self, mark: bytes) -> bytes:
        """Read until a mark has come; returns everything received so far."""
        while mark not in self.received:
            self.read_some()
        return self.received

    def read_some(self) -> None:
        """Wait for more bytes and take them in."""
        piece = self._socket.recv(65536)
        assert piece, f"the service hung up: {self.received!r}"
        self.received += piece

    def read_all(self) -> bytes:
        """Read until the service closes the connection."""
        while piece := self._socket.recv(65536):
            self.received += piece
        return self.received

    def close(self) -> None:
        """Leave as a browser tab does."""
        self._socket.close()

    def half_close(self) -> None:
        """Say that nothing more will be sent, and go on listening."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave with a TCP reset instead of a farewell."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()
