"""All replies to one HTTP request: several prompts, several answers each, heard as one stream."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Self

from service.engine.request import Finished, FinishReason, GenerationRequest
from service.requests.request_start import Arrival
from service.requests.tracker import ModelT_contra, Reply, ReplyEvent, Submits, Switchboard

FAILURES = {FinishReason.ABORT, FinishReason.TIMEOUT, FinishReason.ERROR}


class Chorus:
    """Replies that share an inbox; leaving the context closes them all."""

    def __init__(self, replies: Sequence[Reply], n: int) -> None:
        self.replies = tuple(replies)
        self.n = n
        """Answers to each prompt; those of one prompt stand together."""
        self._index = {reply.request.request_id: i for i, reply in enumerate(replies)}

    def __enter__(self) -> Self:
        """Listen until the block ends."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening; what has not ended is aborted before the next step."""
        for reply in self.replies:
            reply.__exit__(None, None, None)

    @property
    def first(self) -> Reply:
        """The first one; model and arrival are those of all."""
        return self.replies[0]

    @property
    def has_event(self) -> bool:
        """Whether the next event is there already."""
        return self.first.has_event

    async def next_event(self, timeout_s: float | None = None) -> tuple[int, ReplyEvent] | None:
        """The next event and the index of its reply; ``None`` if none came in time.

        Where one answer fails, the request has failed: the others are ended.
        """
        event = await self.first.next_event(timeout_s)
        if event is None:
            return None
        if isinstance(event, Finished) and event.reason in FAILURES:
            for reply in self.replies:
                reply.close()
        return self._index[event.request_id], event


def open_all(
    switchboard: Switchboard,
    worker: Submits[ModelT_contra],
    model: ModelT_contra,
    requests: Sequence[GenerationRequest],
    arrival: Arrival,
    *,
    n: int,
) -> Chorus:
    """Submit requests and listen to all; if one may not be accepted now, none is."""
    switchboard.check(requests, arrival)
    inbox: asyncio.Queue[ReplyEvent] = asyncio.Queue()
    with contextlib.ExitStack() as opened:
        replies = [
            opened.enter_context(switchboard.open(worker, model, request, arrival, inbox))
            for request in requests
        ]
        opened.pop_all()
    return Chorus(replies, n)
