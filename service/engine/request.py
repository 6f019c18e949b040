"""What crosses the border of the engine: requests in, events out. Plain data only.

Every accepted request ends in exactly one ``Finished``.
"""

import dataclasses
import enum

from lm.sampling import SamplingParams


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One prompt to continue."""

    request_id: str
    prompt_ids: tuple[int, ...]
    """At least one token."""
    max_new_tokens: int
    sampling: SamplingParams
    stop: tuple[str, ...] = ()
    """Text before the first of these is the answer; the strings themselves are not sent."""
    deadline: float | None = None
    """Reading of the worker's clock at which the request is given up."""

    @property
    def num_tokens(self) -> int:
        """Prompt and output that it asks for."""
        return len(self.prompt_ids) + self.max_new_tokens


class FinishReason(enum.StrEnum):
    """Why a request ended."""

    STOP = "stop"
    """An end token or a stop string."""
    LENGTH = "length"
    """``max_new_tokens``, or the end of the context."""
    ABORT = "abort"
    """The client left or the service is shutting down."""
    TIMEOUT = "timeout"
    ERROR = "error"
    """The model's step failed; the message says how."""


@dataclasses.dataclass(frozen=True)
class Started:
    """The request left the queue: its prompt is being computed."""

    request_id: str
    num_reused: int = 0
    """Prompt tokens that need not be computed: the cache has them from another request."""
    is_final = False


@dataclasses.dataclass(frozen=True)
class TokenGenerated:
    """One more token; its text may be empty while a character or stop string is undecided."""

    request_id: str
    token_id: int
    text: str
    is_final = False


@dataclasses.dataclass(frozen=True)
class Finished:
    """The one terminal event of a request."""

    request_id: str
    reason: FinishReason
    text: str = ""
    """What was still held back."""
    message: str = ""
    """For ``ERROR`` alone."""
    is_final = True


Event = Started | TokenGenerated | Finished


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepStats:
    """What one turn of the worker did, and what is left to do."""

    num_running: int = 0
    num_waiting: int = 0
    batch_size: int = 0
    """Sequences that the step computed for."""
    num_tokens: int = 0
    """Tokens that the step computed."""
    num_draft_tokens: int = 0
    """Tokens of them that were guesses."""
    num_accepted_tokens: int = 0
    """Guesses that were right."""
    num_cached_tokens: int = 0
    """Tokens that the caches hold."""
    cache_capacity: int = 0
    """Tokens that the caches could hold."""
