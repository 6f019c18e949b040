"""What nobody foresaw becomes a 500 of the one shape, and a traceback in the log alone."""

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError
from service.http.errors import respond

logger = logging.getLogger(__name__)


class FaultMiddleware:
    """Answers in place of whatever raised; an answer that has begun is cut off instead."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and catch."""
        has_begun = False

        async def watched_send(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception:
            if scope["type"] != "http" or has_begun:
                raise  # uvicorn logs it and closes the connection
            logger.exception("request %s: unexpected error", scope["state"]["arrival"].request_id)
            error = ServiceError("internal error; the service's log says more")
            await respond(error)(scope, receive, send)
