"""Stamps each request with the time of its arrival, before its body is read."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send


class ArrivalMiddleware:
    """Puts a clock's reading into ``request.state.arrived``."""

    def __init__(self, app: ASGIApp, clock: Callable[[], float]) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stamp and pass on."""
        if scope["type"] == "http":
            scope.setdefault("state", {})["arrived"] = self._clock()
        await self._app(scope, receive, send)
