"""Server-sent events (WHATWG HTML, section 9.2) of one reply, and clients that leave."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

KEEP_ALIVE = ": keep-alive\n\n"
DONE = "data: [DONE]\n\n"
SSE_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""The second tells nginx not to hold tokens back."""


class ClientGone(Exception):
    """Nobody is listening any more."""


async def until_gone(request: Request, work: Coroutine[None, None, T]) -> T:
    """Await ``work``; if the client leaves first, cancel it and raise ``ClientGone``.

    Races against the connection's own message instead of polling, so that leaving counts at
    once, also while the request waits in the queue.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        leaving.cancel()
        working.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def sse(json: str) -> str:
    """One event; JSON has no raw line breaks, so one line is enough."""
    return f"data: {json}\n\n"


class EventStream(StreamingResponse):
    """Sends frames, and stops listening however sending ends."""

    def __init__(
        self,
        listening: contextlib.ExitStack,
        frames: AsyncIterator[str],
        headers: dict[str, str],
    ) -> None:
        super().__init__(frames, media_type="text/event-stream", headers=SSE_HEADERS | headers)
        self._listening = listening

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream to the client until the end or until it leaves."""
        with self._listening:
            await super().__call__(scope, receive, send)
