"""``POST /tokenize`` and ``/detokenize``: text to token ids and back, by a model's tokenizer."""

from typing import Any, Self

from fastapi import APIRouter, HTTPException, Request
from pydantic import Field, model_validator

from service.api.admit import check_token_ids, prompt_ids_of
from service.api.answering import CLIENT_CLOSED_REQUEST
from service.api.arrival import Arrival
from service.api.ask import Chat
from service.api.dependencies import FrontDep
from service.api.fields import Schema, Text, TokenId, refuse
from service.api.openai_schemas import Message
from service.api.schemas import ErrorBody
from service.api.stream import ClientGone, until_gone
from service.engine.served import ModelCard
from service.front import Front

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 404, 413, 422, 503, 504)
}

router = APIRouter(tags=["tokens"])


class TokenizeRequest(Schema):
    """Body of ``POST /tokenize``: a prompt, or a chat as its template writes it."""

    prompt: Text | None = Field(None, description="Text to cut into tokens.", examples=["To be"])
    messages: list[Message] | None = Field(None, min_length=1, description="Or a chat.")
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

    tokens: list[TokenId] = Field(description="Token ids.", examples=[[5, 6]])
    model: Text | None = Field(None, description="Whose tokenizer; by default the served one's.")


class DetokenizeResponse(Schema):
    """Their text, without special tokens."""

    prompt: str


@router.post("/tokenize", responses=ERRORS)
async def tokenize(body: TokenizeRequest, runtime: FrontDep, request: Request) -> TokenizeResponse:
    """Cut a text or a chat into tokens, exactly as generating from it would."""
    model = await _model(runtime, body.model, request)
    prompt = (
        Chat(tuple(message.for_template() for message in body.messages))
        if body.messages is not None
        else body.prompt or ""
    )
    token_ids = await prompt_ids_of(model, prompt)
    return TokenizeResponse(
        tokens=list(token_ids), count=len(token_ids), max_model_len=model.max_model_tokens
    )


@router.post("/detokenize", responses=ERRORS)
async def detokenize(
    body: DetokenizeRequest, runtime: FrontDep, request: Request
) -> DetokenizeResponse:
    """The text of token ids; bytes that are no characters become U+FFFD."""
    model = await _model(runtime, body.model, request)
    check_token_ids(model, "tokens", tuple(body.tokens))
    return DetokenizeResponse(prompt=model.tokenizer.decode(body.tokens))


async def _model(runtime: Front, name: str | None, request: Request) -> ModelCard:
    """The model that a request names, for as long as its client waits."""
    arrival: Arrival = request.state.arrival
    deadline = runtime.clock() + runtime.settings.request_timeout_s
    naming = runtime.model_named(name, deadline, arrival.party)
    if name is None:
        return await naming
    try:
        return await until_gone(request, naming)
    except ClientGone as gone:
        raise HTTPException(CLIENT_CLOSED_REQUEST) from gone
