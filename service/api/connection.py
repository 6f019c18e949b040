"""Connections that cost something and ask for nothing are ended: slow, stalled or too many.

uvicorn alone waits for ever for the rest of a request, and for a client that does not read what
is sent. Here a request must be whole, and what is sent must be taken, within a time; and when
there are too many connections, one that waits for nothing of ours makes room for the newcomer,
so that idle and slow clients, however many, do not keep others out.
"""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from service.api.entrance import REQUEST_ID_HEADER, STANDING_HEADERS, UNCACHED
from service.api.errors import STATUS, error_body
from service.errors import ClientTooSlow, InvalidRequest, ServiceError, TooManyConnections


class GuardedProtocol(HttpToolsProtocol):
    """One connection. ``guarded_protocol`` gives the limits."""

    client_timeout_s: float
    max_connections: int
    on_refused: Callable[[str], None]
    """Told the code of what is refused before there is a request to answer."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._reading: asyncio.TimerHandle | None = None
        """Runs while a request is expected or not yet whole."""
        self._ending: asyncio.TimerHandle | None = None
        """Runs while the client does not take what was sent."""
        self._has_spoken = False
        self._answering: RequestResponseCycle | None = None
        """The request that is being answered, or was last; ``cycle`` is the last that came."""
        self.idle_since = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._expect_request()
        if len(self.connections) > self.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more, and whoever is answering learns it.

        uvicorn tells the last request that came, which with pipelining is another one.
        """
        self._stop_reading_timer()
        self._stop_ending_timer()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came, of a request or not: what they begin must become whole."""
        self._expect_request()
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self._has_spoken = True
        self._expect_request()

    def on_message_complete(self) -> None:
        """A request's last byte."""
        self._stop_reading_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer's last byte has been handed to the system."""
        self.idle_since = self.loop.time()
        super().on_response_complete()
        if self.transport.is_closing():
            self._end_soon()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        super().pause_writing()
        self._end_soon()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._stop_ending_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came after an answer."""
        super().timeout_keep_alive_handler()
        self._end_soon()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in the one shape of all errors."""
        self._hang_up(InvalidRequest(msg), 400)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being done for it: it waits for a request, or for one's rest."""
        cycle = self._answering
        return cycle is None or cycle.response_complete or cycle.more_body

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _make_room(self) -> None:
        """End the connection that has been idle for longest, or this one if none is."""
        others = [
            other
            for other in self.connections
            if isinstance(other, GuardedProtocol) and not other.transport.is_closing()
        ]
        if len(others) <= self.max_connections:
            return
        idle = [other for other in others if other.is_idle and other is not self]
        if idle:
            min(idle, key=lambda other: other.idle_since).transport.abort()
            return
        self._hang_up(TooManyConnections("every connection is in use; try again later"))

    def _expect_request(self) -> None:
        if self._reading is None:
            self._reading = self.loop.call_later(self.client_timeout_s, self._on_slow_request)

    def _on_slow_request(self) -> None:
        self._reading = None
        if self.transport.is_closing():
            return
        if not self.is_idle:  # the next request may wait for the end of this answer
            self._expect_request()
        elif not self._has_spoken:  # a connection made for later, and not used
            self.transport.close()
        else:
            message = f"the request was not whole within {self.client_timeout_s:g} s"
            self._hang_up(ClientTooSlow(message))

    def _hang_up(self, error: ServiceError, status: int | None = None) -> None:
        """Say why, unless an answer has begun, and close."""
        cycle = self._answering
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.on_refused(error.code)
            self.transport.write(raw_answer(error, status or STATUS[type(error)]))
        self.transport.close()
        self._end_soon()

    def _end_soon(self) -> None:
        """Give the client some time to take what was sent."""
        if self._ending is None:
            self._ending = self.loop.call_later(self.client_timeout_s, self.transport.abort)

    def _stop_reading_timer(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _stop_ending_timer(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None


def guarded_protocol(
    *, client_timeout_s: float, max_connections: int, on_refused: Callable[[str], None]
) -> type[GuardedProtocol]:
    """The class of a service's connections; uvicorn makes one for each."""
    members = {
        "client_timeout_s": client_timeout_s,
        "max_connections": max_connections,
        "on_refused": staticmethod(on_refused),
    }
    return type("LimitedProtocol", (GuardedProtocol,), members)


def raw_answer(error: ServiceError, status: int) -> bytes:
    """An error as bytes, for a connection on which no request came to a route."""
    body = error_body(error).model_dump_json().encode()
    headers = (
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        UNCACHED,
        *STANDING_HEADERS,
        (REQUEST_ID_HEADER.encode(), uuid.uuid4().hex.encode()),
    )
    lines = [name + b": " + value + b"\r\n" for name, value in headers]
    return b"".join((STATUS_LINE[status], *lines, b"\r\n", body))
