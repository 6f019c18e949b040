"""What every request passes first: it notes the arrival, and what every answer carries.

The outermost room: it also stamps answers that no route gave, such as those of other middleware.
"""

import re
import uuid
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import InvalidRequest
from service.excerpts import excerpt
from service.http.errors import respond
from service.requests.request_start import Arrival, address_of

REQUEST_ID_HEADER = "x-request-id"
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
"""Ids that a client may choose: they go into headers and log lines as they are."""

MAX_ORIGIN_BYTES = 300
"""A host name has 253 at most; answers for other origins repeat it."""

STANDING_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (
        b"content-security-policy",  # the pages have their scripts and styles inline
        b"default-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
)
UNCACHED = (b"cache-control", b"no-store")
"""For answers that do not say otherwise themselves: an answer is of its moment."""


class ArrivalMiddleware:
    """Puts an ``Arrival`` into the request's state, and headers onto its answer."""

    def __init__(self, app: ASGIApp, clock: Callable[[], float]) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stamp and pass on; an id that cannot be returned as it is gets a 400."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(REQUEST_ID_HEADER.encode())
        is_usable = given is None or REQUEST_ID.fullmatch(given.decode("latin-1"))
        request_id = given.decode() if given and is_usable else uuid.uuid4().hex
        scope.setdefault("state", {})["arrival"] = Arrival(
            self._clock(),
            excerpt(scope["path"]),
            request_id,
            address=address_of(scope.get("client")),
        )
        standing = [*STANDING_HEADERS, (REQUEST_ID_HEADER.encode(), request_id.encode())]

        async def stamped_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                is_silent = all(name != UNCACHED[0] for name, _ in headers)
                message["headers"] = [*headers, *([UNCACHED] if is_silent else []), *standing]
            await send(message)

        if is_usable and len(headers.get(b"origin", b"")) <= MAX_ORIGIN_BYTES:
            await self._app(scope, receive, stamped_send)
            return
        if is_usable:
            error = InvalidRequest("origin: it is too long", param="origin")
            await respond(error, 400)(scope, receive, stamped_send)
            return
        error = InvalidRequest(
            f"{REQUEST_ID_HEADER}: 1 to 128 letters, digits or any of ._:/+=@-",
            param=REQUEST_ID_HEADER,
        )
        await respond(error, 400)(scope, receive, stamped_send)
