"""Bodies of requests and responses; unknown fields are refused by name.

Ranges are those of ``lm.sampling``; they stand here by reference so that the OpenAPI page says
them too.
"""

import secrets
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from lm.sampling import MAX_SEED, MAX_TEMPERATURE, SamplingParams
from service.engine.served import Checkpoint

MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256
"""Characters of one stop string."""
DEFAULT_NEW_TOKENS = 128


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


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
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH), IsText]


class Schema(BaseModel):
    """Strict about types and names."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class GenerateRequest(Schema):
    """Body of ``POST /generate``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"prompt": "First Citizen:", "max_new_tokens": 64, "temperature": 0.8}]
        }
    )

    prompt: Annotated[str, IsText] = Field(description="Text to continue.")
    max_new_tokens: int = Field(DEFAULT_NEW_TOKENS, ge=1, description="Most tokens to generate.")
    temperature: float = Field(
        1.0, ge=0, le=MAX_TEMPERATURE, allow_inf_nan=False, description="0 is greedy."
    )
    top_k: int = Field(0, ge=0, description="Keep the k likeliest tokens; 0 keeps all.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Keep the likeliest tokens that reach this probability."
    )
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="Makes the answer repeatable; else one is drawn."
    )
    stop: Annotated[
        list[StopString],
        BeforeValidator(_as_list, json_schema_input_type=StopString | list[StopString]),
    ] = Field(
        default_factory=list,
        max_length=MAX_STOP_STRINGS,
        description="End the answer before any of these strings.",
    )
    stream: bool = Field(default=False, description="Send tokens as server-sent events.")
    model: Annotated[str, IsText] | None = Field(
        None,
        description="Checkpoint to ask: run@step, run, run@best, latest or best; by default the "
        "one that is served.",
        examples=["tiny@500"],
    )

    def sampling(self) -> SamplingParams:
        """How tokens are chosen; draws a seed if none was given."""
        return SamplingParams(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=secrets.randbelow(MAX_SEED) if self.seed is None else self.seed,
        )


class CheckpointName(Schema):
    """Which weights answered."""

    name: str = Field(examples=["tiny@500"])
    run: str
    step: int
    fingerprint: str = Field(description="SHA-256 that names every served byte.")

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """The name of a checkpoint that is served."""
        return cls(
            name=checkpoint.name,
            run=checkpoint.run,
            step=checkpoint.step,
            fingerprint=checkpoint.fingerprint,
        )


class Usage(Schema):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int


class Timings(Schema):
    """Seconds, from the request's arrival unless said otherwise."""

    queue_s: float | None = Field(description="Waiting for a slot.")
    ttft_s: float | None = Field(description="Until the first token.")
    total_s: float


class Ending(Schema):
    """What is known once an answer is whole; the last event of a stream."""

    finish_reason: Literal["stop", "length"]
    usage: Usage
    timings: Timings
    checkpoint: CheckpointName
    seed: int


class GenerateResponse(Ending):
    """Answer of ``POST /generate`` without ``stream``."""

    text: str


class TokenEvent(Schema):
    """One event of a stream; the texts of all events joined are the whole answer."""

    token_id: int
    text: str


class FinalEvent(Ending):
    """Last event of a stream before ``[DONE]``."""

    text: str = Field(description="What was held back until the end, often empty.")


class ErrorDetail(Schema):
    """What went wrong."""

    message: str
    type: str
    code: str
    param: str | None = Field(description="The field that is at fault, if one is.")


class ErrorBody(Schema):
    """The one shape of every error."""

    error: ErrorDetail


class Health(Schema):
    """Answer of the health routes."""

    status: Literal["ok", "ready", "not_ready"]
    reason: str | None = None
    checkpoint: str | None = None


class Version(Schema):
    """What runs here."""

    version: str
    torch: str
    device: str | None
    dtype: str | None = Field(description="Precision of the weights in memory.")
    backend: str | None = Field(
        description="What computes: native kernels for an instruction set, or torch."
    )
    checkpoint: CheckpointName | None


class CheckpointStatus(Schema):
    """One step of the volume, or of memory alone."""

    name: str
    run: str
    step: int
    fingerprint: str | None
    created_at: str | None = Field(description="Null where the manifest cannot be read.")
    metrics: dict[str, float] = Field(description="What the trainer claims.")
    flags: list[str] = Field(description="What the trainer found.")
    probe_bits_per_byte: float | None = Field(
        description="Measured by the service, for models in memory."
    )
    status: Literal["served", "resident", "available", "refused", "incomplete"] = Field(
        description="Resident: in memory, for requests that name it or have begun on it."
    )
    on_volume: bool = Field(description="False for one that was pruned and is in memory still.")
    reason: str | None = Field(description="Why it was refused, in one word.")
    message: str | None = Field(description="Why it was refused, in full.")


class CheckpointList(Schema):
    """What the volume holds."""

    run: str | None = Field(description="The run that is followed.")
    pinned: str | None = Field(description="The checkpoint that is held, if one is.")
    problem: str | None = Field(description="Why the volume cannot be looked at just now.")
    checkpoints: list[CheckpointStatus]


class ReloadRequest(Schema):
    """Body of ``POST /checkpoints/reload``."""

    model: Annotated[str, IsText] | None = Field(
        default=None, description="Checkpoint to load; none is the newest of the followed run."
    )
    pin: bool = Field(
        default=False,
        description="Serve the model to everybody until a reload without a model. Without it, "
        "the model is put into memory for those who name it.",
    )


class ReloadResponse(Schema):
    """What came of it."""

    served: CheckpointName
    loaded: CheckpointName
    pinned: bool = Field(description="Whether the served one is held.")


class Model(Schema):
    """One name that a request may give as ``model``, as OpenAI's API lists it."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When the checkpoint was written, in seconds.")
    owned_by: Literal["nestling"] = "nestling"
    checkpoint: str = Field(description="What the name means now.", examples=["tiny@500"])


class ModelList(Schema):
    """Every name that a request may give as ``model``."""

    object: Literal["list"] = "list"
    data: list[Model]
