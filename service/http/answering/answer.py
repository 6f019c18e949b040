"""From an ``Ask`` to an HTTP answer, whole or streamed, in whichever protocol's words.

A ``Voice`` says what is heard in the words of one protocol; all else is the same for all: the
admission, headers that wait for the first event, clients that leave, keep-alives, the end.
"""

import asyncio
import contextlib
import dataclasses
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Protocol

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from service.engine.request import Finished, FinishReason, PromptScored, TokenGenerated
from service.engine.served_model import Checkpoint
from service.errors import (
    DeadlineExceeded,
    Draining,
    GenerationFailed,
    InvalidRequest,
    ServiceError,
)
from service.excerpts import excerpt
from service.front import Front
from service.http.answering.bodies import is_large
from service.http.answering.submission import admit
from service.http.stream import DONE, KEEP_ALIVE, EventStream, sse, until_gone
from service.requests.reply_group import Chorus
from service.requests.request_start import Arrival
from service.requests.spec import Ask
from service.requests.tracker import Reply, ReplyEvent

CHECKPOINT_HEADER = "x-nestling-checkpoint"

MOST_JOINED = 64
"""Frames that leave in one piece."""

INLINE_SCORES = 256
"""A prompt's scores that are put into words at once: some milliseconds."""


@dataclasses.dataclass
class Said:
    """One whole answer."""

    reply: Reply
    tokens: list[TokenGenerated] = dataclasses.field(default_factory=list)
    prompt: PromptScored | None = None
    end: Finished | None = None

    @property
    def text(self) -> str:
        """All of it."""
        assert self.end is not None, "asked before the end"
        return "".join([*(token.text for token in self.tokens), self.end.text])

    def add(self, event: ReplyEvent) -> None:
        """Take in an event; raises the ``ServiceError`` of an answer that does not come."""
        match event:
            case PromptScored():
                self.prompt = event
            case TokenGenerated():
                self.tokens.append(event)
            case Finished():
                raise_for_reason(event)
                self.end = event


class Voice(Protocol):
    """How one protocol says an answer; made for one request, once it is admitted."""

    ends_with_done: bool

    def whole(self, answers: list[Said]) -> object:
        """The body of the whole answer."""
        ...

    def events(self, index: int, event: ReplyEvent) -> Iterator[str]:
        """JSON of what a stream says at an event of one answer."""
        ...

    def closing(self) -> Iterator[str]:
        """JSON of what a stream says after all answers."""
        ...

    def error(self, error: ServiceError) -> str:
        """JSON of what a stream says when an answer breaks off."""
        ...


class VoiceOf(Protocol):
    """Makes the voice of a request."""

    def __call__(self, chorus: Chorus) -> Voice:
        """The voice for these replies."""
        ...


async def answer(
    request: Request, runtime: Front, asks: Callable[[], Ask], voice_of: VoiceOf, *, stream: bool
) -> Response:
    """Admit what ``asks`` gives, then answer whole or as a stream.

    Raises ``ClientGone``, which ``BoundedRoute`` answers, once nobody listens.
    """
    chorus = await until_gone(request, _admitted(request, runtime, asks))
    request.state.is_accepted = True
    voice = voice_of(chorus)
    headers = checkpoint_header(chorus.first.model.checkpoint)
    keep_alive_s = runtime.settings.keep_alive_s
    with contextlib.ExitStack() as listening:
        listening.enter_context(chorus)
        if not stream:
            said = await until_gone(request, whole_answers(chorus))
            if any(map(is_long, [one.prompt for one in said])):
                return await asyncio.to_thread(
                    lambda: JSONResponse(voice.whole(said), headers=headers)
                )
            return JSONResponse(voice.whole(said), headers=headers)
        first = await until_gone(request, first_event(chorus, keep_alive_s))
        rest = listening.pop_all()  # from here on the stream closes the replies
        said_one_by_one = frames(chorus, voice, first, keep_alive_s)
        if runtime.joins_frames:
            return EventStream(rest, joined(said_one_by_one, chorus), headers)
        return EventStream(rest, said_one_by_one, headers)


async def _admitted(request: Request, runtime: Front, asks: Callable[[], Ask]) -> Chorus:
    """Replies to what a body asks for; a large one's schema and messages are read in a lane."""
    arrival: Arrival = request.state.arrival
    if is_large(request):
        return await admit(runtime, await runtime.short_lane.do(arrival.party, asks), arrival)
    return await admit(runtime, asks(), arrival)


async def whole_answers(chorus: Chorus) -> list[Said]:
    """Wait for the end of all; raises the ``ServiceError`` of an answer that does not come."""
    said = [Said(reply) for reply in chorus.replies]
    num_left = len(said)
    while num_left:
        heard = await chorus.next_event()
        assert heard is not None, "waiting without a limit"
        index, event = heard
        said[index].add(event)
        num_left -= event.is_final
    return said


async def first_event(chorus: Chorus, keep_alive_s: float) -> tuple[int, ReplyEvent] | None:
    """Wait for the first event, so that a failure before it gets its own status.

    Gives up after the keep-alive time: then headers and comments have to go out.
    """
    heard = await chorus.next_event(keep_alive_s)
    if heard is not None and isinstance(heard[1], Finished):
        raise_for_reason(heard[1])
    return heard


async def frames(
    chorus: Chorus, voice: Voice, first: tuple[int, ReplyEvent] | None, keep_alive_s: float
) -> AsyncIterator[str]:
    """The stream's events, comments while it is silent, and its end marker."""
    heard = first
    num_left = len(chorus.replies)
    try:
        while True:
            if heard is None:
                yield KEEP_ALIVE
            else:
                index, event = heard
                if isinstance(event, Finished):
                    raise_for_reason(event)
                    num_left -= 1
                for json in await words_for(voice, index, event):
                    yield sse(json)
            if not num_left:
                break
            heard = await chorus.next_event(keep_alive_s)
        for json in voice.closing():
            yield sse(json)
    except ServiceError as error:
        yield sse(voice.error(error))
    if voice.ends_with_done:
        yield DONE


async def joined(said: AsyncIterator[str], chorus: Chorus) -> AsyncIterator[str]:
    """The same frames, those together whose events are there already.

    They are many where the loop or the client lags, and then one write costs less than many.
    """
    ready: list[str] = []
    async for frame in said:
        ready.append(frame)
        if not chorus.has_event or len(ready) == MOST_JOINED:
            yield "".join(ready)
            ready.clear()
    if ready:
        yield "".join(ready)


def is_long(event: object) -> bool:
    """Whether words for an event take a time in which other streams would wait: use a thread."""
    return isinstance(event, PromptScored) and len(event.scores) > INLINE_SCORES


async def words_for(voice: Voice, index: int, event: ReplyEvent) -> Iterable[str]:
    """What a stream says at an event."""
    if is_long(event):
        return await asyncio.to_thread(list, voice.events(index, event))
    return voice.events(index, event)


def raise_for_reason(event: Finished) -> None:
    """Raise the ``ServiceError`` of a request that did not end well."""
    match event.reason:
        case FinishReason.TIMEOUT:
            raise DeadlineExceeded(
                event.message or "the request took longer than the service allows"
            )
        case FinishReason.ERROR if event.is_refusal:
            raise InvalidRequest(event.message)
        case FinishReason.ERROR:
            raise GenerationFailed(f"the model's step failed: {excerpt(event.message)}")
        case FinishReason.ABORT:
            raise Draining("the service is shutting down")
        case FinishReason.STOP | FinishReason.LENGTH:
            return


def checkpoint_header(checkpoint: Checkpoint) -> dict[str, str]:
    """Provenance for those who do not read bodies: ``run@step;fingerprint=…``.

    Of a run's name, what headers cannot hold is percent-encoded.
    """
    name = urllib.parse.quote(checkpoint.name, safe="@")
    return {CHECKPOINT_HEADER: f"{name};fingerprint={checkpoint.fingerprint}"}


def usage(chorus: Chorus) -> dict[str, int]:
    """Tokens so far, in OpenAI's words; a prompt with several answers counts once."""
    prompt_tokens = sum(len(r.request.prompt_ids) for r in chorus.replies[:: chorus.n])
    completion_tokens = sum(reply.num_tokens for reply in chorus.replies)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
