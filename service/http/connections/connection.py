"""Connections that cost something and ask for nothing are ended: slow, stalled, large or too many.

uvicorn alone waits for ever for the rest of a request, and for a client that does not read what
is sent; it keeps heads of any size, and a request object for each one that a client sends ahead.
Its protocol stands behind this one and gets the bytes of one request at a time, once the request
before is answered. Nothing of it but the interface that its server uses is relied on here: a class
made with ``app_state``, an ``asyncio.Protocol`` of bytes, and the state that it hands to the app.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Collection
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import ClientTooSlow, ServiceError, TooManyConnections
from service.http.connections.framing import Framing
from service.http.connections.open_connections import Crowd
from service.http.connections.raw_answer import raw_answer
from service.http.connections.transport import Outlet

READ_BYTES = 16 * 1024
"""Read at once. As many bytes behind an unanswered request are kept; then reading pauses."""
SPARE_TIMEOUT_S = 2.0
"""How long a request in the room for health may take to come."""
LINGER_S = 1.0
"""After an error, how long a client may go on sending; it might not see the answer otherwise."""
LINGER_BYTES = 256 * 1024
ALL_BUSY = "every connection is in use; try again later"
MAX_IGNORED_BODIES = 8
"""Of a request that was answered before its body came, so many times the largest body is read:
most clients look for an answer only then. A body that still does not end is hung up on."""
_CONNECTION = "nestling.connection"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """What a connection may cost."""

    client_timeout_s: float
    max_body_bytes: int
    spare_paths: Collection[str]
    """Answered also where all connections are busy."""
    on_refused: Callable[[str], None]
    """Told the code of what is refused before there is a request to answer."""


class Connection(asyncio.BufferedProtocol):
    """One connection, and uvicorn's protocol behind it."""

    def __init__(
        self, limits: ConnectionLimits, crowd: Crowd, *, app_state: dict[str, Any], **others: Any
    ) -> None:
        self._limits = limits
        self._crowd = crowd
        self._most_ignored_bytes = MAX_IGNORED_BODIES * limits.max_body_bytes
        self._behind = HttpToolsProtocol(app_state={**app_state, _CONNECTION: self}, **others)
        self._loop = asyncio.get_running_loop()
        self._framing = Framing()
        self._buffer = bytearray()
        self._received = b""
        """What came and was not passed on."""
        self._is_body_wanted = True
        self._is_reading = True
        self._is_answered = True
        """Whether no request is being answered."""
        self._timer: asyncio.TimerHandle | None = None
        """Runs while a request is expected or not yet whole."""
        self._end: asyncio.TimerHandle | None = None
        """Runs while the client does not take what was sent."""
        self._num_lingering_bytes = 0
        self._is_lingering = False
        self.has_begun_answer = False
        self.is_spare = False
        self.idle_since = self._loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        self._transport = transport
        self._crowd.add(self)
        self._behind.connection_made(Outlet(self, transport))
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._crowd.remove(self)
        self._stop_timer()
        self._stop_end()
        self._is_lingering = True
        self._received = b""
        self._behind.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002  asyncio's name
        """Where the next bytes go; made for each read, so that idle connections have none."""
        self._buffer = bytearray(READ_BYTES)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came, of a request or not: what they begin must become whole."""
        received, self._buffer = bytes(memoryview(self._buffer)[:nbytes]), bytearray()
        if self._is_lingering:
            self._num_lingering_bytes += nbytes
            if self._num_lingering_bytes > LINGER_BYTES:
                self._transport.abort()
            return
        self._expect_request()
        self._received += received
        self._pass_on()

    def eof_received(self) -> None:
        """The client sends nothing more: the transport closes."""
        self._behind.eof_received()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        self._behind.pause_writing()
        self._end_soon()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._stop_end()
        self._behind.resume_writing()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being done for it: it waits for a request, or for one's rest."""
        return self._is_answered or not self._framing.is_whole

    @property
    def is_leaving(self) -> bool:
        """Whether it is being closed."""
        return self._is_lingering or self._transport.is_closing()

    def on_answered(self) -> None:
        """The app has done with a request; the next one can be passed on."""
        self._is_answered, self.has_begun_answer = True, False
        self.idle_since = self._loop.time()
        self._loop.call_soon(self._pass_on)  # uvicorn's protocol may still have to say its end

    def let_read(self, *, is_wanted: bool) -> None:
        """Whether more of a request's body is wanted now."""
        self._is_body_wanted = is_wanted
        self._read_or_pause()

    def close(self) -> None:
        """Close once what was written has been taken, or some time after."""
        if self._received and not self.is_leaving:
            self._linger()  # more may be on its way, and the answer would be lost with it
        else:
            self._close_now()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _close_now(self) -> None:
        self._transport.close()
        self._end_soon()

    def _pass_on(self) -> None:
        """Give uvicorn's protocol what it may have: no byte behind an unanswered request."""
        start, framing = 0, self._framing
        while start < len(self._received) and not self.is_leaving:
            if framing.is_whole:
                if not self._is_answered:
                    break
                self._expect_request()
            piece = self._received[start : start + framing.piece_size(self._received, start)]
            start += len(piece)
            try:
                self._take(piece)
            except ServiceError as error:
                self._hang_up(error)
        self._received = b"" if self.is_leaving else self._received[start:]
        self._read_or_pause()

    def _take(self, piece: bytes) -> None:
        framing = self._framing
        had_head = framing.has_head and not framing.is_whole
        framing.feed(piece)
        if framing.has_head and not had_head:
            path = framing.path.decode()
            if self.is_spare and path not in self._limits.spare_paths:
                raise TooManyConnections(ALL_BUSY)
            self._is_answered = False
        if self._is_answered and framing.num_body_bytes > self._most_ignored_bytes:
            self._linger()
            return
        if framing.is_whole:
            self._stop_timer()
        self._behind.data_received(piece)

    def _read_or_pause(self) -> None:
        """Read while there is room, also behind an unanswered request: clients may leave."""
        is_reading = self._is_lingering or (
            self._is_body_wanted and len(self._received) < READ_BYTES
        )
        if is_reading == self._is_reading or self._transport.is_closing():
            return
        self._is_reading = is_reading
        if is_reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _expect_request(self) -> None:
        if self._timer is None:
            timeout_s = self._limits.client_timeout_s
            if self.is_spare:
                timeout_s = min(timeout_s, SPARE_TIMEOUT_S)
            self._timer = self._loop.call_later(timeout_s, self._on_slow_request)

    def _on_slow_request(self) -> None:
        self._timer = None
        if self.is_leaving:
            return
        if not self.is_idle:  # the next request may wait for the end of this answer
            self._expect_request()
        elif self.is_spare:
            self._hang_up(TooManyConnections(ALL_BUSY))
        elif not self._framing.has_begun:  # a connection made for later, and not used
            self.close()
        else:
            limit_s = self._limits.client_timeout_s
            self._hang_up(ClientTooSlow(f"the request was not whole within {limit_s:g} s"))

    def _hang_up(self, error: ServiceError) -> None:
        """Say why, unless an answer has begun, and close."""
        if self.is_leaving:
            return
        if not self.has_begun_answer:
            self._limits.on_refused(error.code)
            self._transport.write(raw_answer(error))
        self._linger()

    def _linger(self) -> None:
        """Send nothing more, and let the client end first, for some time and some bytes."""
        self._is_lingering = True
        self._stop_timer()
        self._read_or_pause()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._timer = self._loop.call_later(LINGER_S, self._close_now)

    def _end_soon(self) -> None:
        """Give the client some time to take what was sent."""
        if self._end is None:
            timeout_s = self._limits.client_timeout_s
            self._end = self._loop.call_later(timeout_s, self._transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_end(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None


class AnsweringApp:
    """An app that tells each connection when its request is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; what is answered in the room for health is the connection's last."""
        connection: Connection | None = scope.get("state", {}).pop(_CONNECTION, None)
        if connection is None:
            await self._app(scope, receive, send)
            return

        async def last_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            await self._app(scope, receive, last_send if connection.is_spare else send)
        finally:
            connection.on_answered()
