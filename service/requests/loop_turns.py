"""Lets requests in one by one: one in a turn of the event loop.

A hundred small requests that come at once are a hundred callbacks of one turn, and no token would
leave between them. Behind a turnstile each has a turn, in which all else that is ready is done too.
"""

import asyncio
import collections


class Turnstile:
    """For one event loop. Whoever is let in works at once, until it awaits something."""

    def __init__(self) -> None:
        self._is_taken = False
        """Whether somebody was let in in this turn."""
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()

    async def enter(self) -> None:
        """Return in a turn of one's own, in the order of coming."""
        loop = asyncio.get_running_loop()
        if self._is_taken:
            waiting: asyncio.Future[None] = loop.create_future()
            self._waiting.append(waiting)
            await waiting
            return
        self._is_taken = True
        loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        """Let in the next one that has not left."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                asyncio.get_running_loop().call_soon(self._on_turn)
                return
        self._is_taken = False
