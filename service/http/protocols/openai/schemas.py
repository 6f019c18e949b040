"""Bodies of OpenAI's requests, field for field, and what may be asked beyond them.

Sources: OpenAI's API reference for completions and chat completions; the extensions have
vLLM's names. What we lack is refused by name unless it has the value that means nothing.
"""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from service.http.bounds import (
    MAX_MESSAGES,
    MAX_PROMPTS,
    MAX_TOOL_CALLS,
    PromptIds,
    TokenId,
    few_parts,
)
from service.http.protocols.fields import (
    MAX_TOP_LOGPROBS,
    SamplingFields,
    Text,
    refuse,
    without_neutral,
)
from service.http.schema import Schema
from service.requests.spec import Ask, Chat

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's own default for completions."""

UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "suffix": ("",),
    "use_beam_search": (False,),
    "length_penalty": (1.0,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "verbosity": (),
    "web_search_options": (),
    "add_generation_prompt": (True,),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "detokenize": (True,),
    "documents": ([],),
    "early_stopping": (False,),
    "include_reasoning": (True,),
    "priority": (0,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "thinking_token_budget": (),
    "truncate_prompt_tokens": (),
}
"""Fields of OpenAI and vLLM that we lack, with the values that ask for nothing; null never does."""

LABELS = frozenset(
    {
        *("metadata", "store", "service_tier", "prompt_cache_key", "prompt_cache_retention"),
        *("safety_identifier", "reasoning_effort", "tool_call_id"),
    }
)
"""Fields that name or sort a request and change nothing of its answer: taken, and not looked at."""

CALLED = {"tools": "tool_choice", "functions": "function_call"}
"""What can be called, and the field that says ``none`` where nothing is to be."""

INSTEAD = dict.fromkeys(
    (*CALLED, *CALLED.values()),
    "hold the answer to a schema with response_format (type json_schema) or to a regex",
)
"""What does a field's work here."""

MESSAGE_NEUTRAL: dict[str, tuple[object, ...]] = dict.fromkeys(
    ("function_call", "refusal", "audio", "annotations"), ([], "")
)


class StreamOptions(Schema):
    """What a stream says besides tokens."""

    include_usage: bool = Field(default=False, description="Count tokens in a last event.")
    continuous_usage_stats: bool = Field(default=False, description="Count them in every event.")
    include_obfuscation: Literal[False] = False


class OpenAIFields(SamplingFields):
    """What completions and chat completions share."""

    stream_options: StreamOptions | None = Field(None, description="For streams alone.")
    user: Text | None = Field(None, description="Who asks; a label without effect.")

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, body: object) -> object:
        if not isinstance(body, dict):
            return body
        called = {name for name, choice in CALLED.items() if body.get(choice) == "none"}
        kept = {name: value for name, value in body.items() if name not in LABELS | called}
        return without_neutral(kept, UNSUPPORTED, INSTEAD)

    @model_validator(mode="after")
    def _stream_options_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise refuse("stream_options", "stream_options need stream: true")
        return self


def _as_prompts(value: object) -> object:
    """One prompt or several, each text or token ids, as a list of them."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return [value]
        if all(isinstance(item, str | list) for item in value):
            return value
    raise PydanticCustomError(
        "prompt_type", "Input should be a text, token ids, or a list of texts or of token ids"
    )


class CompletionRequest(OpenAIFields):
    """Body of ``POST /v1/completions``."""

    prompt: Annotated[
        list[Text | PromptIds],
        Field(max_length=MAX_PROMPTS, fail_fast=True),
        BeforeValidator(
            _as_prompts,
            json_schema_input_type=str | list[str] | list[TokenId] | list[list[TokenId]],
        ),
    ] = Field(description="Text or token ids to continue, or several of them.")
    max_tokens: int = Field(
        DEFAULT_COMPLETION_TOKENS, ge=0, description="Most tokens to generate, for each answer."
    )
    echo: bool = Field(default=False, description="Put the prompt before the answer.")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Score each token, and so many of the likeliest beside it.",
    )

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's tokens are scored too."""
        return self.echo and self.logprobs is not None

    def ask(self) -> Ask:
        """What this asks for."""
        return Ask(
            prompts=tuple(p if isinstance(p, str) else tuple(p) for p in self.prompt),
            max_new_tokens=self.max_tokens,
            logprobs=self.logprobs,
            prompt_logprobs=self.logprobs if self.scores_prompt else None,
            **self.common(),
        )


class TextPart(Schema):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


class Message(Schema):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    name: Text | None = Field(None, description="Who says it, for templates that look at it.")
    tool_calls: Annotated[list[dict[str, Any]], Field(fail_fast=True)] = Field(
        default_factory=list,
        max_length=MAX_TOOL_CALLS,
        description="Calls of a history, for templates that write them.",
    )
    tool_call_id: Text | None = Field(None, description="The call that a tool answers.")

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, body: object) -> object:
        return without_neutral(body, MESSAGE_NEUTRAL)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise refuse(
                "content", "content is required, but of an assistant's message with tool_calls"
            )
        return self

    @property
    def text(self) -> str:
        """What it says."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    def for_template(self) -> dict[str, Any]:
        """As chat templates know it; a call's arguments are data, as transformers wants them."""
        said: dict[str, Any] = {"role": self.template_role, "content": self.text}
        if self.tool_calls:
            said["tool_calls"] = [_with_arguments(call) for call in self.tool_calls]
        others = {"name": self.name, "tool_call_id": self.tool_call_id}
        return said | {key: value for key, value in others.items() if value is not None}

    @property
    def template_role(self) -> str:
        """The role as chat templates know it."""
        return "system" if self.role == "developer" else self.role


Messages = Annotated[
    list[Message],
    Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True),
    BeforeValidator(few_parts),
]


def _with_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """A call whose arguments, a text of JSON in OpenAI's API, are what that text says."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


class ChatRequest(OpenAIFields):
    """Body of ``POST /v1/chat/completions``."""

    messages: Messages = Field(description="The chat so far.")
    max_completion_tokens: int | None = Field(
        None, ge=1, description="Most tokens to generate; by default what fits the model."
    )
    max_tokens: int | None = Field(None, ge=1, description="The same by its older name.")
    logprobs: bool = Field(default=False, description="Score each token.")
    top_logprobs: int = Field(
        0,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Score so many of the likeliest tokens beside each; needs `logprobs`.",
    )

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if len({self.max_tokens, self.max_completion_tokens} - {None}) > 1:
            raise refuse("max_completion_tokens", "max_tokens is its old name, and says otherwise")
        return self

    @model_validator(mode="after")
    def _top_needs_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise refuse("top_logprobs", "top_logprobs need logprobs: true")
        return self

    def ask(self) -> Ask:
        """What this asks for."""
        is_new = self.max_completion_tokens is not None
        return Ask(
            prompts=(Chat(tuple(message.for_template() for message in self.messages)),),
            max_new_tokens=self.max_completion_tokens if is_new else self.max_tokens,
            output_field="max_completion_tokens" if is_new else "max_tokens",
            logprobs=self.top_logprobs if self.logprobs else None,
            **self.common(),
        )
