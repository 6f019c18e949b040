"""``POST /tokenize`` and ``/detokenize``: text to token ids and back, by a model's tokenizer."""

from collections.abc import Callable
from typing import Any, Self

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, model_validator

from lm.panics import LibraryPanic
from service.errors import InvalidRequest
from service.front import Front
from service.http.answering.bodies import BoundedRoute
from service.http.answering.prompts import check_token_ids, prompts_ids
from service.http.bounds import PromptIds
from service.http.dependencies import FrontDep
from service.http.protocols.fields import Text, refuse
from service.http.protocols.openai.schemas import Messages
from service.http.schema import ErrorBody, Schema
from service.http.stream import until_gone
from service.requests.request_start import Arrival
from service.requests.spec import Chat

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 404, 413, 422, 429, 503, 504)
}

INLINE_TOKENS = 1024
"""What is made of more is made in a lane."""

router = APIRouter(tags=["tokens"], route_class=BoundedRoute)


class TokenizeRequest(Schema):
    """Body of ``POST /tokenize``: a prompt, or a chat as its template writes it."""

    prompt: Text | None = Field(None, description="Text to cut into tokens.", examples=["To be"])
    messages: Messages | None = Field(None, description="Or a chat.")
    model: Text | None = Field(None, description="Whose tokenizer; by default the served one's.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise refuse("prompt", "either prompt or messages")
        return self


class TokenizeResponse(Schema):
    """Token ids, as a prompt of the generating routes has them."""

    tokens: list[int]
    count: int
    max_model_len: int = Field(description="Prompt and output together.")


class DetokenizeRequest(Schema):
    """Body of ``POST /detokenize``."""

    tokens: PromptIds = Field(description="Token ids.", examples=[[5, 6]])
    model: Text | None = Field(None, description="Whose tokenizer; by default the served one's.")


class DetokenizeResponse(Schema):
    """Their text, without special tokens."""

    prompt: str


@router.post("/tokenize", response_model=TokenizeResponse, responses=ERRORS)
async def tokenize(body: TokenizeRequest, request: Request, runtime: FrontDep) -> Response:
    """Cut a text or a chat into tokens, exactly as generating from it would."""
    return await until_gone(request, _tokenized(body, request.state.arrival, runtime))


@router.post("/detokenize", response_model=DetokenizeResponse, responses=ERRORS)
async def detokenize(body: DetokenizeRequest, request: Request, runtime: FrontDep) -> Response:
    """The text of token ids; bytes that are no characters become U+FFFD."""
    return await until_gone(request, _detokenized(body, request.state.arrival, runtime))


async def _tokenized(body: TokenizeRequest, arrival: Arrival, runtime: Front) -> Response:
    model = await runtime.model_named(body.model, _deadline(runtime), arrival.party)
    prompt = (
        Chat(tuple(message.for_template() for message in body.messages))
        if body.messages is not None
        else body.prompt or ""
    )
    (ids,) = await prompts_ids(runtime, model, [prompt], arrival)

    def said() -> Response:
        tokens = list(ids)
        whole = {"tokens": tokens, "count": len(ids), "max_model_len": model.max_model_tokens}
        return JSONResponse(whole)

    return await _worked(runtime, arrival, said, size=len(ids))


async def _detokenized(body: DetokenizeRequest, arrival: Arrival, runtime: Front) -> Response:
    model = await runtime.model_named(body.model, _deadline(runtime), arrival.party)

    def said() -> Response:
        check_token_ids(model, "tokens", body.tokens)
        try:
            return JSONResponse({"prompt": model.tokenizer.decode_aside(body.tokens)})
        except LibraryPanic as error:
            raise InvalidRequest(f"tokens: {error}", param="tokens") from error

    return await _worked(runtime, arrival, said, size=len(body.tokens))


async def _worked(
    runtime: Front, arrival: Arrival, said: Callable[[], Response], *, size: int
) -> Response:
    """An answer made here, or in a lane where it is of many tokens."""
    return said() if size <= INLINE_TOKENS else await runtime.short_lane.do(arrival.party, said)


def _deadline(runtime: Front) -> float:
    return runtime.clock() + runtime.settings.request_timeout_s
