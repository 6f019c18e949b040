"""Bodies of OpenAI's answers, whole and as events of a stream.

Source: OpenAI's API reference for completions and chat completions.
"""

from typing import Any, Literal

from pydantic import Field

from service.http.schema import Schema


class CompletionUsage(Schema):
    """Tokens of all answers together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionLogprobs(Schema):
    """Scores of a completion's tokens, one entry of each list a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Schema):
    """One answer."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None = Field(
        description="Null in a stream's middle."
    )


class OpenAIAnswer(Schema):
    """What every answer says of itself."""

    id: str
    created: int = Field(description="When the request arrived, in seconds.")
    model: str = Field(description="The checkpoint that answers.", examples=["tiny@500"])
    system_fingerprint: str = Field(
        description="run@step and the SHA-256 that names every served byte.",
        examples=["tiny@500:1b9d…"],
    )
    usage: CompletionUsage | None = None


class Completion(OpenAIAnswer):
    """Answer of ``POST /v1/completions``, and each event of its stream."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class ChatAnswerMessage(Schema):
    """What the assistant says."""

    role: Literal["assistant"]
    content: str
    refusal: None = None


class ChatChoice(Schema):
    """One answer."""

    index: int
    message: ChatAnswerMessage
    logprobs: dict[str, Any] | None = Field(
        description="`content`: for each token `token`, `logprob`, `bytes` and `top_logprobs`."
    )
    finish_reason: Literal["stop", "length"]


class ChatCompletion(OpenAIAnswer):
    """Answer of ``POST /v1/chat/completions``."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
