"""OpenAI's routes: completions and chat completions."""

from typing import Any

from fastapi import APIRouter, Request, Response

from service.http.answering.answer import answer
from service.http.answering.bodies import BoundedRoute
from service.http.dependencies import FrontDep
from service.http.protocols.openai.answers import ChatCompletion, Completion
from service.http.protocols.openai.formatters import ChatVoice, CompletionVoice
from service.http.protocols.openai.schemas import ChatRequest, CompletionRequest
from service.http.schema import ErrorBody
from service.requests.reply_group import Chorus

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 404, 413, 429, 500, 503, 504)
}

router = APIRouter(prefix="/v1", tags=["openai"], route_class=BoundedRoute)


@router.post("/completions", response_model=Completion, responses=ERRORS)
async def completions(body: CompletionRequest, request: Request, runtime: FrontDep) -> Response:
    """Continue one prompt or several, as OpenAI's completions do."""

    def voice_of(chorus: Chorus) -> CompletionVoice:
        return CompletionVoice(chorus, body)

    return await answer(request, runtime, body.ask, voice_of, stream=body.stream)


@router.post("/chat/completions", response_model=ChatCompletion, responses=ERRORS)
async def chat_completions(body: ChatRequest, request: Request, runtime: FrontDep) -> Response:
    """Answer a chat, as OpenAI's chat completions do.

    The prompt is written by the tokenizer's chat template; without one, as `User: …` and
    `Assistant: …`, which end with a line of their own.
    """

    def voice_of(chorus: Chorus) -> ChatVoice:
        return ChatVoice(chorus, body)

    return await answer(request, runtime, body.ask, voice_of, stream=body.stream)
