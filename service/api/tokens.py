"""``POST /tokenize`` and ``/detokenize``: text to token ids and back, by a model's tokenizer."""

from typing import Any, Self

from fastapi import APIRouter
from pydantic import Field, model_validator

from service.api.admit import prompt_ids_of
from service.api.ask import Chat
from service.api.dependencies import FrontDep
from service.api.fields import Schema, Text, TokenId, refuse
from service.api.openai_schemas import Message
from service.api.schemas import ErrorBody
from service.errors import InvalidRequest
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
async def tokenize(body: TokenizeRequest, runtime: FrontDep) -> TokenizeResponse:
    """Cut a text or a chat into tokens, exactly as generating from it would."""
    model = await runtime.model_named(body.model, _deadline(runtime))
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
async def detokenize(body: DetokenizeRequest, runtime: FrontDep) -> DetokenizeResponse:
    """The text of token ids; bytes that are no characters become U+FFFD."""
    model = await runtime.model_named(body.model, _deadline(runtime))
    vocab_size = model.tokenizer.vocab_size
    if max(body.tokens, default=0) >= vocab_size:
        raise InvalidRequest(f"tokens: ids are below {vocab_size}", param="tokens")
    return DetokenizeResponse(prompt=model.tokenizer.decode(body.tokens))


def _deadline(runtime: Front) -> float:
    return runtime.clock() + runtime.settings.request_timeout_s
