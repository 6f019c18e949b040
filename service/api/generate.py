"""``POST /generate``: our own route, flat and small, whole or streamed."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from service.api.admit import admit
from service.api.dependencies import ArrivalDep, RuntimeDep
from service.api.errors import error_body
from service.api.replies import Reply
from service.api.schemas import (
    CheckpointName,
    ErrorBody,
    FinalEvent,
    GenerateRequest,
    GenerateResponse,
    Timings,
    TokenEvent,
    Usage,
)
from service.api.stream import DONE, KEEP_ALIVE, ClientGone, EventStream, sse, until_gone
from service.engine.request import Finished, FinishReason, TokenGenerated
from service.engine.served import Checkpoint
from service.errors import DeadlineExceeded, Draining, GenerationFailed, ServiceError

CHECKPOINT_HEADER = "x-nestling-checkpoint"

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left; nobody receives it."""

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 404, 413, 422, 429, 500, 503, 504)
}

router = APIRouter(tags=["generation"])


@router.post("/generate", response_model=GenerateResponse, responses=ERRORS)
async def generate(
    body: GenerateRequest, request: Request, runtime: RuntimeDep, arrival: ArrivalDep
) -> Response:
    """Continue a prompt.

    With `stream`, tokens come as server-sent events, each `data: {"token_id", "text"}`; the
    last one has `finish_reason`, `usage`, `timings` and `checkpoint`, then `data: [DONE]`.
    """
    reply = await admit(runtime, body, arrival)
    headers = checkpoint_header(reply.model.checkpoint)
    keep_alive_s = runtime.settings.keep_alive_s
    with contextlib.ExitStack() as listening:
        listening.enter_context(reply)
        try:
            if not body.stream:
                answer = await until_gone(request, whole_answer(reply))
                return JSONResponse(answer.model_dump(), headers=headers)
            first = await until_gone(request, first_event(reply, keep_alive_s))
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        listening.pop_all()  # from here on the stream closes the reply
        return EventStream(reply, frames(reply, first, keep_alive_s), headers)


async def whole_answer(reply: Reply) -> GenerateResponse:
    """Wait for the end; raises the ``ServiceError`` of an answer that does not come."""
    texts = []
    while True:
        event = await reply.next_event()
        assert event is not None, "waiting without a limit"
        texts.append(event.text)
        if isinstance(event, Finished):
            raise_for_reason(event)
            return GenerateResponse(text="".join(texts), **_ending(reply, event))


async def first_event(reply: Reply, keep_alive_s: float) -> TokenGenerated | Finished | None:
    """Wait for the first event, so that a failure before it gets its own status.

    Gives up after the keep-alive time: then headers and comments have to go out.
    """
    event = await reply.next_event(keep_alive_s)
    if isinstance(event, Finished):
        raise_for_reason(event)
    return event


async def frames(
    reply: Reply, first: TokenGenerated | Finished | None, keep_alive_s: float
) -> AsyncIterator[str]:
    """The stream's events, comments while it is silent, and its end marker."""
    event = first
    while not isinstance(event, Finished):
        yield KEEP_ALIVE if event is None else sse(_token_json(event))
        event = await reply.next_event(keep_alive_s)
    try:
        raise_for_reason(event)
    except ServiceError as error:
        yield sse(error_body(error).model_dump_json())
    else:
        yield sse(FinalEvent(text=event.text, **_ending(reply, event)).model_dump_json())
    yield DONE


def raise_for_reason(event: Finished) -> None:
    """Raise the ``ServiceError`` of a request that did not end well."""
    match event.reason:
        case FinishReason.TIMEOUT:
            raise DeadlineExceeded(
                event.message or "the request took longer than the service allows"
            )
        case FinishReason.ERROR:
            raise GenerationFailed(f"the model's step failed: {event.message}")
        case FinishReason.ABORT:
            raise Draining("the service is shutting down")
        case FinishReason.STOP | FinishReason.LENGTH:
            return


def checkpoint_header(checkpoint: Checkpoint) -> dict[str, str]:
    """Provenance for those who do not read bodies: ``run@step;fingerprint=…``."""
    return {CHECKPOINT_HEADER: f"{checkpoint.name};fingerprint={checkpoint.fingerprint}"}


def _token_json(event: TokenGenerated) -> str:
    return TokenEvent(token_id=event.token_id, text=event.text).model_dump_json()


def _ending(reply: Reply, event: Finished) -> dict[str, Any]:
    """What the last event of a stream and a whole answer both say."""
    timeline = reply.timeline
    return {
        "finish_reason": event.reason.value,
        "usage": Usage(
            prompt_tokens=len(reply.request.prompt_ids), completion_tokens=reply.num_tokens
        ),
        "timings": Timings(
            queue_s=timeline.queue_s, ttft_s=timeline.ttft_s, total_s=timeline.total_s or 0.0
        ),
        "checkpoint": CheckpointName.of(reply.model.checkpoint),
        "seed": reply.request.sampling.seed,
    }
