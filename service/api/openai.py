"""OpenAI's routes: completions and chat completions."""

from typing import Any

from fastapi import APIRouter, Request, Response

from service.api.answering import answer
from service.api.bodies import BoundedRoute
from service.api.chorus import Chorus
from service.api.dependencies import FrontDep
from service.api.openai_answers import ChatCompletion, Completion
from service.api.openai_schemas import ChatRequest, CompletionRequest
from service.api.openai_voices import ChatVoice, CompletionVoice
from service.api.schemas import ErrorBody

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
