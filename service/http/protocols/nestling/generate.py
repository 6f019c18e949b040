"""``POST /generate``: our own route, flat and small, whole or streamed."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Discriminator, Tag

from service.engine.request import Finished, PromptScored, TokenGenerated
from service.errors import ServiceError
from service.http.answering.answer import Said, answer
from service.http.answering.bodies import BoundedRoute
from service.http.dependencies import FrontDep
from service.http.error_format import Dialect
from service.http.errors import error_body
from service.http.protocols.nestling.schemas import (
    Answer,
    Answers,
    CheckpointName,
    GenerateRequest,
    Timings,
    Usage,
)
from service.http.protocols.tgi import routes as tgi
from service.http.protocols.tgi.schemas import TGIRequest, TGIResponse
from service.http.protocols.token_text import scored
from service.http.schema import ErrorBody
from service.requests.reply_group import Chorus
from service.requests.tracker import Reply, ReplyEvent

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 404, 413, 422, 429, 500, 503, 504)
}
OWN, TGI = "generate", "tgi"

router = APIRouter(tags=["generation"], route_class=BoundedRoute)


def _dialect_of(body: object) -> str:
    """Whose shape a body has."""
    has_inputs = "inputs" in body if isinstance(body, dict) else isinstance(body, TGIRequest)
    return TGI if has_inputs else OWN


GenerateBody = Annotated[
    Annotated[GenerateRequest, Tag(OWN)] | Annotated[TGIRequest, Tag(TGI)],
    Discriminator(_dialect_of),
]


@router.post("/generate", response_model=Answer | Answers | TGIResponse, responses=ERRORS)
async def generate(body: GenerateBody, request: Request, runtime: FrontDep) -> Response:
    """Continue a prompt.

    With `stream`, tokens come as server-sent events, each `data: {"token_id", "text"}`; the
    last one has `finish_reason`, `usage`, `timings` and `checkpoint`, then `data: [DONE]`. With
    `n` > 1, each event has the `index` of its answer. A body with `inputs` is one of
    text-generation-inference, and is answered in its shape.
    """
    if isinstance(body, TGIRequest):
        request.state.dialect = Dialect.TGI
        return await tgi.reply_to(body, request, runtime, stream=body.stream)
    return await answer(request, runtime, body.ask, OwnVoice, stream=body.stream)


class OwnVoice:
    """Says answers in our own words."""

    ends_with_done = True

    def __init__(self, chorus: Chorus) -> None:
        self._chorus = chorus
        self._tokenizer = chorus.first.model.tokenizer
        self._has_many = chorus.n > 1

    def whole(self, answers: list[Said]) -> object:
        """One flat answer, or a list of them."""
        said = [self._whole_one(index, one) for index, one in enumerate(answers)]
        return {"choices": said} if self._has_many else said[0]

    def events(self, index: int, event: ReplyEvent) -> Iterator[str]:
        """A token an event, and one for each end."""
        place = {"index": index} if self._has_many else {}
        match event:
            case TokenGenerated():
                said: dict[str, object] = {"token_id": event.token_id, "text": event.text}
                if event.score is not None:
                    said |= scored(self._tokenizer, event.score) | {"text": event.text}
            case PromptScored():
                said = {"prompt_logprobs": self._scores(event)}
            case Finished():
                said = ending(self._chorus.replies[index], event) | {"text": event.text}
        yield json.dumps(said | place, ensure_ascii=False, separators=(",", ":"))

    def closing(self) -> Iterator[str]:
        """Nothing: each answer's last event has said it."""
        return iter(())

    def error(self, error: ServiceError) -> str:
        """The one error shape."""
        return error_body(error).model_dump_json()

    def _whole_one(self, index: int, said: Said) -> dict[str, object]:
        assert said.end is not None, "whole answers have ended"
        whole = ending(said.reply, said.end) | {"text": said.text}
        if self._has_many:
            whole["index"] = index
        if said.reply.request.logprobs is not None:
            whole["logprobs"] = [scored(self._tokenizer, t.score) for t in said.tokens if t.score]
        if said.prompt is not None:
            whole["prompt_logprobs"] = self._scores(said.prompt)
        return whole

    def _scores(self, prompt: PromptScored) -> list[dict[str, object]]:
        return [scored(self._tokenizer, score) for score in prompt.scores]


def ending(reply: Reply, event: Finished) -> dict[str, Any]:
    """What the last event of a stream and a whole answer both say."""
    timeline = reply.timeline
    usage = Usage(prompt_tokens=len(reply.request.prompt_ids), completion_tokens=reply.num_tokens)
    timings = Timings(
        queue_s=timeline.queue_s, ttft_s=timeline.ttft_s, total_s=timeline.total_s or 0.0
    )
    return {
        "finish_reason": event.reason.value,
        "usage": usage.model_dump(),
        "timings": timings.model_dump(),
        "checkpoint": CheckpointName.of(reply.model.checkpoint).model_dump(),
        "seed": reply.request.sampling.seed,
    }
