"""What crosses the border of the engine: requests in, events out. Plain data only.

Every accepted request ends in exactly one ``Finished``.
"""

import dataclasses
import enum
from typing import TYPE_CHECKING, NamedTuple

from lm.sampling import SamplingParams

if TYPE_CHECKING:
    from service.engine.structure.constraint import Prepared


class RequestRefused(ValueError):
    """A request asks for what the model does not have; the message is for who asked."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One prompt to continue."""

    request_id: str
    prompt_ids: tuple[int, ...]
    """At least one token."""
    max_new_tokens: int
    sampling: SamplingParams
    min_new_tokens: int = 0
    """No end token is chosen before, and no stop string looked for in the text until then."""
    ignore_eos: bool = False
    """Whether the model's own end tokens are tokens like others."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these."""
    stop_token_ids: tuple[int, ...] = ()
    """End tokens of this request alone."""
    include_stop: bool = False
    """Whether the answer ends behind its stop string or stop token instead."""
    logprobs: int | None = None
    """How many likeliest tokens to score beside each new one; ``None`` scores nothing."""
    prompt_logprobs: int | None = None
    """The same for the prompt's tokens."""
    grammar: str | None = None
    """What the text has to match, see ``engine.structured``."""
    prepared: "Prepared | None" = dataclasses.field(default=None, compare=False, repr=False)
    """The grammar as it was read and checked, where that was in the engine's process: the one thing
    here that is no plain data."""
    makes_text: bool = True
    """Whether events have the tokens' text; without stop strings, whoever asks may make it."""
    client: str = ""
    """Who asked, for fairness alone: requests of one client share what another one has."""
    deadline: float | None = None
    """Reading of the worker's clock at which the request is given up."""

    @property
    def num_tokens(self) -> int:
        """Prompt and output that it asks for."""
        return len(self.prompt_ids) + self.max_new_tokens

    def check(self, vocab_size: int) -> None:
        """Raise ``RequestRefused`` for token ids that index past a model's embeddings."""
        biased = tuple(token_id for token_id, _ in self.sampling.logit_bias)
        named = {
            "prompt": self.prompt_ids,
            "logit_bias": biased,
            "stop_token_ids": self.stop_token_ids,
        }
        for name, token_ids in named.items():
            if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
                raise RequestRefused(f"{name}: token ids of this model are below {vocab_size}")


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
class TokenScore:
    """Log-probabilities by the model alone: before temperature, penalties and masks."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens and their log-probabilities, the likeliest first."""


@dataclasses.dataclass(frozen=True)
class PromptScored:
    """The prompt has been read: scores of its tokens but the first, which nothing precedes."""

    request_id: str
    scores: tuple[TokenScore, ...]
    is_final = False


class TokenGenerated(NamedTuple):
    """One more token; its text may be empty while a character or stop string is undecided.

    A named tuple: there is one for every token of every stream, and it is made in less than half
    of a frozen dataclass's time.
    """

    request_id: str
    token_id: int
    text: str
    score: TokenScore | None = None

    @property
    def is_final(self) -> bool:
        """An answer goes on behind a token."""
        return False


@dataclasses.dataclass(frozen=True)
class Finished:
    """The one terminal event of a request."""

    request_id: str
    reason: FinishReason
    text: str = ""
    """What was still held back."""
    message: str = ""
    """For ``ERROR`` alone."""
    by_text: bool = False
    """Whether a stop string ended it."""
    score: TokenScore | None = None
    """Of the end token that was chosen and is no part of the answer, where tokens are scored."""
    is_refusal: bool = False
    """Whether an ``ERROR`` is the request's own fault: its structure is too much."""
    is_final = True


Event = Started | PromptScored | TokenGenerated | Finished


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
