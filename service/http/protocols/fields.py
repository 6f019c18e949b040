"""The fields of sampling that every generating route has, under the same names.

Ranges are those of ``lm.sampling``; they stand here by reference so that the OpenAPI page says
them too.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from lm.sampling import MAX_BIAS, RANGES, SamplingParams
from service.engine.structure.constraint import regex_grammar, schema_grammar
from service.errors import InvalidRequest
from service.excerpts import MAX_REASON, excerpt
from service.http.bounds import TokenId, at_most, check_schema_size
from service.http.schema import Schema

MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256
"""Characters of one stop string."""
MAX_CHOICES = 128
MAX_BIASED_TOKENS = 1024
MAX_TOP_LOGPROBS = 20
MAX_REGEX_LENGTH = 4096
SMALLEST_TOP_P = 1e-9
"""What ``top_p: 0`` means: the likeliest token alone."""
_SAMPLING = frozenset(field.name for field in dataclasses.fields(SamplingParams))


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def drawn_seed(seed: object) -> object:
    """``None`` for -1, as other engines spell a seed to be drawn."""
    return None if type(seed) is int and seed == -1 else seed


def _refuse_lone_surrogates(text: str) -> str:
    """JSON can spell half a surrogate pair; no encoding can, so no tokenizer knows it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError(
            "lone_surrogate", "Input should be text, found half a surrogate pair"
        ) from error
    return text


IsText = AfterValidator(_refuse_lone_surrogates)
Text = Annotated[str, IsText]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH), IsText]


def refuse(param: str, message: str) -> PydanticCustomError:
    """An error of a field that only a look at several fields shows; ``api.errors`` names it."""
    escaped = message.replace("{", "{{").replace("}", "}}")
    return PydanticCustomError("refused_field", escaped, {"param": param})


def _ranged(name: str, default: float, description: str) -> Any:
    low, high = RANGES[name]
    return Field(default, ge=low, le=high, allow_inf_nan=False, description=description)


class JsonSchema(Schema):
    """A JSON schema and what it is called."""

    name: str = Field("answer", description="Not looked at.")
    description: str | None = Field(None, description="Not looked at.")
    schema_: dict[str, Any] = Field(alias="schema", description="JSON schema of the answer.")
    strict: bool | None = Field(None, description="Every schema is held to strictly.")


class ResponseFormat(Schema):
    """What the answer's text has to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = Field(None, description="For type `json_schema`.")
    value: dict[str, Any] | None = Field(
        None, description="A schema for type `json_object`, as Hugging Face's client sends it."
    )

    schema_: dict[str, Any] | None = Field(
        None, alias="schema", description="The same, as llama.cpp's and Together's clients send it."
    )

    @model_validator(mode="after")
    def _match_type(self) -> Self:
        if self.json_schema is None and self.type == "json_schema":
            raise refuse("response_format", "type 'json_schema' needs json_schema, with a schema")
        if self.json_schema is not None and self.type != "json_schema":
            raise refuse("response_format", "json_schema belongs to type 'json_schema' alone")
        for name, schema in (("value", self.value), ("schema", self.schema_)):
            if schema is not None and self.type != "json_object":
                raise refuse("response_format", f"{name} belongs to type 'json_object' alone")
        if self.value is not None and self.schema_ is not None:
            raise refuse("response_format", "value and schema are two names of one thing")
        return self

    def grammar(self) -> str | None:
        """Grammar of the answer; none for plain text."""
        if self.json_schema is not None:
            return _bounded_grammar(self.json_schema.schema_)
        if self.type == "json_object":
            schema = self.value if self.schema_ is None else self.schema_
            return _bounded_grammar({"type": "object"} if schema is None else schema)
        return None


def _bounded_grammar(schema: Mapping[str, Any]) -> str:
    check_schema_size(schema)
    return schema_grammar(schema)


class SamplingFields(Schema):
    """How tokens are chosen and when an answer ends."""

    temperature: float = _ranged("temperature", 1.0, "0 is greedy.")
    top_k: int = Field(
        0,
        ge=-1,
        le=RANGES["top_k"][1],
        description="Keep the k likeliest tokens; 0 and -1 keep all.",
    )
    top_p: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Keep the likeliest tokens that reach this probability; 0 keeps one.",
    )
    min_p: float = _ranged(
        "min_p", 0.0, "Keep tokens with at least this share of the likeliest one's probability."
    )
    repetition_penalty: float = _ranged(
        "repetition_penalty", 1.0, "Above 1 makes tokens of prompt and output less likely."
    )
    frequency_penalty: float = _ranged(
        "frequency_penalty", 0.0, "Taken off a logit for each time that its token is in the output."
    )
    presence_penalty: float = _ranged(
        "presence_penalty", 0.0, "Taken off the logit of every token that is in the output."
    )
    logit_bias: Annotated[
        dict[
            Annotated[str, Field(pattern=r"^[0-9]{1,9}$")],
            Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)],
        ],
        Field(max_length=MAX_BIASED_TOKENS),
        at_most(MAX_BIASED_TOKENS),
    ] = Field(
        default_factory=dict,
        description="By token id, what is added to its logit.",
    )
    seed: Annotated[int | None, BeforeValidator(drawn_seed)] = Field(
        None,
        ge=RANGES["seed"][0],
        le=RANGES["seed"][1],
        description="Repeats an answer; without one, or at -1, it is drawn. With `n`, that of the "
        "first answer.",
    )
    n: int = Field(1, ge=1, le=MAX_CHOICES, description="Answers to each prompt.")
    stop: Annotated[
        list[StopString],
        Field(fail_fast=True),
        BeforeValidator(_as_list, json_schema_input_type=StopString | list[StopString]),
    ] = Field(
        default_factory=list,
        max_length=MAX_STOP_STRINGS,
        description="End the answer before any of these strings.",
    )
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True)] = Field(
        default_factory=list,
        max_length=MAX_STOP_STRINGS,
        description="End the answer before any of these tokens.",
    )
    include_stop: bool = Field(
        default=False,
        validation_alias=AliasChoices("include_stop", "include_stop_str_in_output"),
        description="End it behind the stop string or stop token instead.",
    )
    min_tokens: int = Field(
        0,
        ge=0,
        validation_alias=AliasChoices("min_tokens", "min_new_tokens"),
        description="Choose no end token, and look for no stop string, before so many.",
    )
    ignore_eos: bool = Field(default=False, description="Go on past the model's own end tokens.")
    response_format: ResponseFormat | None = Field(
        None, description="Hold the answer to JSON, or to a JSON schema."
    )
    regex: Annotated[str, Field(max_length=MAX_REGEX_LENGTH), IsText] | None = Field(
        None, description="Hold the answer to a regular expression, matched as a whole."
    )
    stream: bool = Field(default=False, description="Send tokens as server-sent events.")
    model: Text | None = Field(
        None,
        description="Checkpoint to ask: run@step, run, run@best, latest or best; by default the "
        "one that is served.",
        examples=["tiny@500"],
    )

    @model_validator(mode="after")
    def _one_structure(self) -> Self:
        structured = self.response_format is not None and self.response_format.type != "text"
        if structured and self.regex is not None:
            raise refuse("regex", "an answer can be held to a regex or a response_format, not both")
        if (structured or self.regex is not None) and (self.ignore_eos or self.min_tokens):
            name = "ignore_eos" if self.ignore_eos else "min_tokens"
            raise refuse(name, "a structured answer ends where its structure does")
        return self

    def asked_sampling(self) -> SamplingParams:
        """How tokens are chosen, but for the seed."""
        return SamplingParams(
            temperature=self.temperature,
            top_k=max(self.top_k, 0),
            top_p=self.top_p or SMALLEST_TOP_P,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logit_bias=tuple((int(token), bias) for token, bias in self.logit_bias.items()),
        )

    def common(self) -> dict[str, Any]:
        """What these fields say, as fields of ``Ask``."""
        try:
            grammar = None if self.response_format is None else self.response_format.grammar()
        except ValueError as error:
            raise InvalidRequest(
                f"response_format: {excerpt(error, MAX_REASON)}", param="response_format"
            ) from error
        if self.regex is not None:
            try:
                grammar = regex_grammar(self.regex)
            except ValueError as error:
                raise InvalidRequest(
                    f"regex: {excerpt(error, MAX_REASON)}", param="regex"
                ) from error
        return {
            "model": self.model,
            "n": self.n,
            "sampling": self.asked_sampling(),
            "unsaid": _SAMPLING - self.model_fields_set,
            "seed": self.seed,
            "min_new_tokens": self.min_tokens,
            "ignore_eos": self.ignore_eos,
            "stop": tuple(self.stop),
            "stop_token_ids": tuple(self.stop_token_ids),
            "include_stop": self.include_stop,
            "grammar": grammar,
        }


def without_neutral(
    body: object,
    neutral: Mapping[str, tuple[object, ...]],
    instead: Mapping[str, str] = MappingProxyType({}),
) -> object:
    """A body without nulls, which mean the default, and without what is neutral in others' APIs.

    Refuses by name a field that only others support at a value that would mean something, and says
    what does its work here, if anything does.
    """
    if not isinstance(body, dict):
        return body
    for name, values in neutral.items():
        if body.get(name) is not None and body[name] not in values:
            hint = f"; {instead[name]}" if name in instead else ""
            raise refuse(name, f"{name} is not supported here{hint}")
    return {
        name: value for name, value in body.items() if value is not None and name not in neutral
    }
