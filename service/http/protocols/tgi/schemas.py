"""Bodies of text-generation-inference's requests and answers, as Hugging Face's clients speak.

Source: the OpenAPI document of huggingface/text-generation-inference, version 3.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lm.sampling import MAX_SEED, MAX_TEMPERATURE, RANGES, SamplingParams
from service.engine.structure.constraint import regex_grammar, schema_grammar
from service.errors import InvalidRequest
from service.excerpts import excerpt
from service.http.bounds import check_schema_size
from service.http.protocols.fields import (
    MAX_REGEX_LENGTH,
    MAX_STOP_STRINGS,
    MAX_TOP_LOGPROBS,
    StopString,
    Text,
    drawn_seed,
    without_neutral,
)
from service.http.schema import Schema
from service.requests.spec import Ask

DEFAULT_NEW_TOKENS = 100
"""TGI's own default."""

UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "adapter_id": (),
    "best_of": (1,),
    "truncate": (),
    "typical_p": (1.0,),
    "watermark": (False,),
}


class TGIGrammar(Schema):
    """What the answer has to be."""

    type: Literal["json", "regex"]
    value: dict[str, Any] | Annotated[str, Field(max_length=MAX_REGEX_LENGTH)]

    def grammar(self) -> str:
        """Grammar of the answer; raises ``InvalidRequest`` if it is none."""
        try:
            if isinstance(self.value, str) == (self.type == "json"):
                raise ValueError(f"value does not suit type {excerpt(self.type)!r}")
            if isinstance(self.value, str):
                return regex_grammar(self.value)
            check_schema_size(self.value)
            return schema_grammar(self.value, implies_objects=True)
        except ValueError as error:
            raise InvalidRequest(f"grammar: {excerpt(error)}", param="grammar") from error


class TGIParameters(Schema):
    """How to generate; greedy unless a field of sampling, or ``do_sample``, says otherwise."""

    max_new_tokens: int = Field(DEFAULT_NEW_TOKENS, ge=1)
    do_sample: bool = False
    temperature: float | None = Field(None, gt=0, le=MAX_TEMPERATURE, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=1, le=MAX_SEED)
    top_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float = Field(
        1.0, ge=RANGES["repetition_penalty"][0], le=RANGES["repetition_penalty"][1]
    )
    frequency_penalty: float = Field(
        0.0, ge=RANGES["frequency_penalty"][0], le=RANGES["frequency_penalty"][1]
    )
    seed: Annotated[int | None, BeforeValidator(drawn_seed)] = Field(None, ge=0, le=MAX_SEED)
    stop: Annotated[list[StopString], Field(fail_fast=True)] = Field(
        default_factory=list, max_length=MAX_STOP_STRINGS
    )
    return_full_text: bool = False
    details: bool = False
    decoder_input_details: bool = False
    top_n_tokens: int = Field(0, ge=0, le=MAX_TOP_LOGPROBS)
    grammar: TGIGrammar | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, body: object) -> object:
        return without_neutral(body, UNSUPPORTED)

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return self.do_sample or (self.temperature, self.top_k, self.top_p) != (None, None, None)

    def sampling(self) -> SamplingParams:
        """How tokens are chosen, but for the seed."""
        return SamplingParams(
            temperature=0.0 if not self.samples else self.temperature or 1.0,
            top_k=self.top_k or 0,
            top_p=self.top_p or 1.0,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
        )


class TGIRequest(Schema):
    """Body of TGI's routes; ``stream`` counts on ``POST /`` and ``POST /generate``."""

    inputs: Text = Field(description="Text to continue.")
    parameters: TGIParameters = Field(default_factory=lambda: TGIParameters.model_validate({}))
    stream: bool = False

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, body: object) -> object:
        return without_neutral(body, {})

    def ask(self) -> Ask:
        """What this asks for."""
        asked = self.parameters
        return Ask(
            model=None,
            prompts=(self.inputs,),
            n=1,
            max_new_tokens=asked.max_new_tokens,
            sampling=asked.sampling(),
            seed=asked.seed,
            min_new_tokens=0,
            ignore_eos=False,
            stop=tuple(asked.stop),
            stop_token_ids=(),
            include_stop=True,
            grammar=None if asked.grammar is None else asked.grammar.grammar(),
            logprobs=asked.top_n_tokens,
            prompt_logprobs=0 if asked.decoder_input_details else None,
            output_field="max_new_tokens",
        )


class TGIToken(Schema):
    """One token of an answer."""

    id: int
    text: str
    logprob: float
    special: bool


class TGIDetails(Schema):
    """What ``details`` asks for."""

    finish_reason: Literal["length", "eos_token", "stop_sequence"]
    generated_tokens: int
    seed: int | None
    prefill: list[dict[str, Any]] = Field(description="`id`, `text`, `logprob`, if asked for.")
    tokens: list[TGIToken]
    top_tokens: list[list[TGIToken]] | None = None


class TGIResponse(Schema):
    """Answer of TGI's routes without a stream; ``POST /`` puts it into a list."""

    generated_text: str
    details: TGIDetails | None = None


class TGIInfo(Schema):
    """Answer of ``GET /info``."""

    model_id: str = Field(description="The checkpoint that is served.")
    model_sha: str = Field(description="SHA-256 that names every served byte.")
    model_dtype: str
    model_device_type: str
    max_concurrent_requests: int
    max_best_of: Literal[1] = 1
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    router: Literal["nestling"] = "nestling"
    version: str


class TGIError(Schema):
    """Every error of TGI's routes."""

    error: str
    error_type: str
