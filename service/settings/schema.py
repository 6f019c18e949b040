"""Every setting of the service: one typed table, read once.

Sources, strongest first: command line, ``NESTLING_…`` environment variables, files of the secrets
directory, defaults. ``service.settings.names`` has their names there.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from lm.volume.run_names import MAX_BYTES, shown, why_no_run
from service.observe.logs import LogFormat
from service.settings.keys import Keyring
from service.settings.kubernetes import is_service_address

ENV_PREFIX = "NESTLING_"

_ORIGIN = re.compile(r"\*|https?://[\w.-]+(:\d+)?|https?://\[[\da-fA-F:]+\](:\d+)?")


def _split(text: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[,\s]+", text) if part)


def _parsed(parse: Callable[[str], object]) -> BeforeValidator:
    """Text is parsed; anything else is left to the field's type."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


CPU_SLOTS, GPU_SLOTS = 32, 256
"""Requests that run at once by default."""


class Settings(BaseSettings):
    """Settings of one service process; frozen."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", arbitrary_types_allowed=True
    )

    volume: Path = Field(Path("volume"), description="Directory that the trainer publishes to.")
    model: str | None = Field(
        None,
        description="Serve this model, hub:OWNER/NAME or a Hugging Face directory, instead of a "
        "volume; no trainer is needed.",
    )
    run: str | None = Field(
        None, description="Run to serve; by default the one with the newest checkpoint at start."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    engine: Literal["auto", "thread", "process"] = Field(
        "auto",
        description="Whether the engine is a thread beside HTTP or a process of its own; auto is "
        "a process on a GPU, where HTTP would take time from its steps.",
    )
    http_workers: int | None = Field(
        None,
        ge=1,
        le=64,
        description="HTTP processes over an engine's process; by default one on a CPU, and on a "
        "GPU up to four, as there are cores.",
    )
    device: str = Field("auto", description="auto (CUDA where there is one), cpu, cuda or cuda:N.")
    dtype: Literal["auto", "float32", "bfloat16", "float64", "int8", "int4"] = Field(
        "auto",
        description="Weights in memory; auto is int8 where the native kernels serve, else bfloat16 "
        "if it is measured to be faster here, else float32.",
    )
    backend: Literal["auto", "native", "torch"] = Field(
        "auto",
        description="What computes: native kernels (for int8, int4 and bfloat16 on a CPU) or "
        "PyTorch; auto takes the kernels where they are there and know the model's shape.",
    )
    threads: int | None = Field(
        None, ge=1, description="Threads of one step; by default one a core."
    )
    switch_interval_s: float = Field(
        0.0001,
        gt=0,
        le=1,
        description="How long a Python thread keeps the interpreter's lock from one that waits: "
        "short, so that tokens leave while a step is prepared, and that a step goes on while "
        "many small requests are answered.",
    )
    num_slots: int | None = Field(
        None,
        ge=1,
        description="Requests that run at once; others wait. By default 32 on a CPU and 256 on a "
        "GPU, or as many as its memory holds.",
    )
    max_step_tokens: int | None = Field(
        None,
        ge=2,
        description="Tokens one step computes: what a newcomer's prompt may delay; by default 256 "
        "on a CPU and 2048 on a GPU.",
    )
    prompt_chunk_ms: float = Field(
        100.0,
        gt=0,
        le=60_000,
        description="What a newcomer's prompt may add to a step that streams wait for, as it is "
        "measured, or as long as their own tokens take where that is longer: a slow machine "
        "computes a prompt in smaller pieces.",
    )
    reuse_prefixes: bool = Field(
        default=True,
        description="Keep what finished requests computed, for prompts that begin alike.",
    )
    sampling_defaults: Literal["model", "none"] = Field(
        "model",
        description="Whether a model's generation_config.json says how a request samples that "
        "names no temperature, top_k, top_p, min_p or repetition_penalty (TGI's routes aside).",
    )
    speculation: bool | None = Field(
        None,
        description="Guess tokens that a text repeats and verify several in one step; what is "
        "answered stays the same. By default on a CPU alone: a GPU's recorded steps are faster.",
    )
    max_model_tokens: int | None = Field(
        None,
        ge=2,
        description="Prompt and output together; by default what the model was made for.",
    )
    max_waiting_requests: int = Field(
        256, ge=0, description="Requests that may wait for a slot; more are refused with 429."
    )
    max_waiting_tokens: int = Field(
        1 << 18,
        ge=1,
        description="Prompt and output tokens that waiting requests may ask for together; more "
        "are refused with 429.",
    )
    max_requests_per_key: int | None = Field(
        None, ge=1, description="Requests of one key that may run or wait; by default any."
    )
    max_body_bytes: int = Field(1 << 20, ge=1, description="Largest request body.")
    max_connections: int = Field(
        512,
        ge=1,
        description="Connections at once; beyond that, the one that has been idle for longest is "
        "closed for each newcomer.",
    )
    client_timeout_s: float = Field(
        30.0,
        gt=0,
        description="How long a client may take to send a request, or not read what is sent.",
    )
    request_timeout_s: float = Field(
        300.0, gt=0, description="Time after which a request is given up, its wait included."
    )
    drain_timeout_s: float = Field(
        30.0, ge=0, description="After SIGTERM, how long running requests may go on."
    )
    volume_timeout_s: float = Field(
        10.0,
        gt=0,
        description="How long a request may wait for the volume, for lists and named checkpoints.",
    )
    keep_alive_s: float = Field(
        15.0, gt=0, description="A stream that is silent for so long sends an SSE comment."
    )
    poll_interval_s: float = Field(
        0.5, gt=0, description="How often the volume is looked at for a newer checkpoint."
    )
    verify_hashes: bool = Field(
        default=True, description="Compare SHA-256 sums before a checkpoint is served."
    )
    load_threads: int = Field(
        1, ge=1, description="Threads that a checkpoint is loaded with, at low priority."
    )
    max_resident_models: int = Field(
        4,
        ge=2,
        description="Models in memory at once: the current one, those being drained, and those "
        "that requests name.",
    )
    swap_drain_s: float = Field(
        300.0,
        ge=0,
        description="After a swap, how long requests may go on on the old weights before they "
        "are ended.",
    )
    secrets_dir: Path = Field(
        Path("/run/secrets"),
        description="Directory whose files nestling_NAME give settings, keys above all.",
    )
    api_keys: Annotated[Keyring | None, _parsed(Keyring.parse)] = Field(
        None,
        description="Keys that clients need for everything but health, between commas or white "
        "space; by default none is asked for.",
    )
    admin_key: Annotated[Keyring | None, _parsed(lambda text: Keyring.of([text.strip()]))] = Field(
        None,
        description="Key of the routes that change what is served; without it, nobody may. It "
        "opens all other routes, too.",
    )
    guard_metrics: bool = Field(default=False, description="Ask for a key on /metrics, too.")
    cors_origins: Annotated[tuple[str, ...], NoDecode, _parsed(_split)] = Field(
        (),
        description="Origins of web pages that may use the API from a browser, between commas, "
        "such as https://example.org; * is any.",
    )
    max_bpb_regression: float | None = Field(
        None,
        ge=0,
        description="Refuse a checkpoint whose bits per byte on the service's probe text are "
        "worse than the served one's by more than this; by default not measured.",
    )
    refuse_memorising: bool = Field(
        default=False, description="Refuse a checkpoint that its trainer flagged as memorising."
    )
    refuse_degenerate: bool = Field(
        default=False,
        description="Refuse a checkpoint whose greedy text is empty or a loop, as that of most "
        "young models is.",
    )
    otlp_endpoint: str | None = Field(
        None,
        description="Base URL of an OpenTelemetry collector (OTLP over HTTP) for traces; by "
        "default nothing is traced.",
    )
    log_prompts: bool = Field(
        default=False, description="Log what is asked; by default no text of a request is logged."
    )
    profile: Path | None = Field(
        None,
        description="Write where the time of steps goes into this JSON file, at the end and at "
        "each SIGUSR1; by default it is not measured.",
    )
    playground_url: str | None = Field(
        None, description="Where the playground is, for the link on the first page."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="What is logged; warning leaves out one line a request."
    )
    log_format: LogFormat = Field(
        "auto", description="json, console, or auto: console in a terminal, else json."
    )

    @field_validator("port", mode="before")
    @classmethod
    def _ignore_kubernetes_address(cls, value: object) -> object:
        if isinstance(value, str) and is_service_address(value):
            return cls.model_fields["port"].default
        return value

    @field_validator("run")
    @classmethod
    def _refuse_what_no_run_is_called(cls, run: str | None) -> str | None:
        if not run:  # as an empty variable says
            return None
        if (why := why_no_run(run)) is not None:
            raise ValueError(f"'{shown(run[:MAX_BYTES])}' is no run of a volume: {why}")
        return run

    @field_validator("cors_origins")
    @classmethod
    def _refuse_what_no_browser_sends(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin; one looks like https://example.org:8443"
                )
        return origins

    @model_validator(mode="after")
    def _need_keys_for_what_is_about_keys(self) -> Self:
        about_keys = {
            "guard_metrics": self.guard_metrics,
            "max_requests_per_key": self.max_requests_per_key is not None,
        }
        for name, is_set in about_keys.items():
            if is_set and self.api_keys is None:
                raise ValueError(f"{name} needs api_keys")
        return self

    @property
    def slots(self) -> int:
        """Requests that run at once, a CPU's usual number where nobody has said."""
        return self.num_slots or CPU_SLOTS

    @model_validator(mode="after")
    def _leave_room_for_prompts(self) -> Self:
        if self.max_step_tokens is not None and self.max_step_tokens <= self.slots:
            raise ValueError(
                f"max_step_tokens {self.max_step_tokens} must exceed num_slots {self.slots}, "
                "else prompts could starve"
            )
        return self
