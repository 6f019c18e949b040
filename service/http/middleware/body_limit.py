"""Refuses a request's body once more than so many bytes of it have come.

FastAPI's own ``max_body_size`` counts the same way but answers in plain text; here the error is
raised where the body is read, so that the handlers give it the one shape.
"""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimitMiddleware:
    """Raises a 413 from ``receive``, at the first byte over the limit, declared or received."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a counting ``receive``."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        declared_bytes = int(declared) if declared.isdigit() else 0
        received_bytes = 0

        async def limited_receive() -> Message:
            nonlocal received_bytes
            self._check(declared_bytes)
            message = await receive()
            received_bytes += len(message.get("body", b""))
            self._check(received_bytes)
            return message

        await self._app(scope, limited_receive, send)

    def _check(self, size: int) -> None:
        if size > self._max_body_bytes:
            raise HTTPException(413, f"the body exceeds {self._max_body_bytes} bytes")
