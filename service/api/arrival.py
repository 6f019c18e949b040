"""Notes when and where each request arrives, before its body is read."""

import dataclasses
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send


@dataclasses.dataclass(frozen=True)
class Arrival:
    """A request as the HTTP layer first saw it."""

    at: float
    """Reading of the service's monotonic clock, in seconds."""
    route: str


class ArrivalMiddleware:
    """Puts an ``Arrival`` into ``request.state.arrival``."""

    def __init__(self, app: ASGIApp, clock: Callable[[], float]) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note it and pass on."""
        if scope["type"] == "http":
            scope.setdefault("state", {})["arrival"] = Arrival(self._clock(), scope["path"])
        await self._app(scope, receive, send)
