"""Bodies of our own requests and responses; unknown fields are refused by name."""

from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Field

from service.engine.served_model import Checkpoint
from service.http.protocols.fields import MAX_TOP_LOGPROBS, SamplingFields, Text
from service.http.schema import Schema
from service.requests.spec import Ask

DEFAULT_NEW_TOKENS = 128


class GenerateRequest(SamplingFields):
    """Body of ``POST /generate``."""

    prompt: Text = Field(description="Text to continue.")
    max_new_tokens: int = Field(
        DEFAULT_NEW_TOKENS,
        ge=0,
        validation_alias=AliasChoices("max_new_tokens", "max_tokens"),
        description="Most tokens to generate; 0 reads the prompt alone.",
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Score each new token, and so many of the likeliest beside it.",
    )
    prompt_logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="The same for the prompt's tokens."
    )

    def ask(self) -> Ask:
        """What this asks for."""
        return Ask(
            prompts=(self.prompt,),
            max_new_tokens=self.max_new_tokens,
            logprobs=self.logprobs,
            prompt_logprobs=self.prompt_logprobs,
            output_field="max_new_tokens",
            **self.common(),
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


class ScoredToken(Schema):
    """A token and its log-probability by the model alone, before temperature and penalties."""

    token_id: int
    text: str
    logprob: float
    top: list[Annotated[dict[str, Any], Field(examples=[{"token_id": 5, "text": "a"}])]] = Field(
        description="The likeliest tokens: `token_id`, `text` and `logprob` of each."
    )


class Answer(Ending):
    """One answer of ``POST /generate`` without ``stream``."""

    text: str
    index: int | None = Field(None, description="Which of several answers; with `n` alone.")
    logprobs: list[ScoredToken] | None = Field(None, description="If asked for.")
    prompt_logprobs: list[ScoredToken] | None = Field(
        None, description="If asked for; all of the prompt's tokens but the first."
    )


class Answers(Schema):
    """Answer of ``POST /generate`` with ``n`` > 1 and without ``stream``."""

    choices: list[Answer]


class TokenEvent(Schema):
    """One event of a stream; the texts of all events joined are the whole answer."""

    token_id: int
    text: str
    index: int | None = Field(None, description="Which of several answers; with `n` alone.")
    logprob: float | None = Field(None, description="If asked for.")
    top: list[dict[str, Any]] | None = Field(None, description="If asked for.")


class FinalEvent(Ending):
    """Last event of an answer; `[DONE]` follows the last of all."""

    text: str = Field(description="What was held back until the end, often empty.")
    index: int | None = Field(None, description="Which of several answers; with `n` alone.")


class Health(Schema):
    """Answer of the health routes."""

    status: Literal["ok", "broken", "ready", "not_ready"]
    reason: str | None = None
    checkpoint: str | None = None


class Version(Schema):
    """What runs here."""

    version: str
    torch: str
    device: str | None
    dtype: str | None = Field(description="Precision of the weights in memory.")
    backend: str | None = Field(
        description="What computes: native kernels for an instruction set, the fused kernels of a "
        "GPU, or torch."
    )
    not_fused: str | None = Field(
        description="On a GPU, why its fused kernels do not compute; null where they do."
    )
    num_slots: int | None = Field(
        description="Requests that the model's cache holds at once: as many as were asked for, or "
        "as memory was there for."
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
    left_out: dict[str, str] = Field(
        description="Directories of the volume that are not read as runs, and why."
    )
    checkpoints: list[CheckpointStatus]


class ReloadRequest(Schema):
    """Body of ``POST /checkpoints/reload``."""

    model: Text | None = Field(
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
    sampling_defaults: dict[str, int | float] | None = Field(
        None,
        description="How a request samples that does not say; null while it is not in memory.",
    )


class ModelList(Schema):
    """Every name that a request may give as ``model``."""

    object: Literal["list"] = "list"
    data: list[Model]
