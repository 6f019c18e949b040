"""Whether a request is let in, decided before anything is queued or any header is sent."""

import collections
import dataclasses
import math

from service.errors import (
    ContextExceeded,
    Draining,
    InvalidRequest,
    NotReady,
    QueueFull,
    TooManyRequests,
)
from service.excerpts import excerpt

BROKEN = "the engine has ended by a bug; the service has to be restarted"

LEARNING_RATE = 0.1
"""Weight of the newest request in what is known of recent ones."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How much may be open at once; ``None`` is no limit."""

    num_slots: int
    max_waiting_requests: int
    max_waiting_tokens: int | None = None
    """Prompt and output that waiting requests ask for."""
    max_requests_per_client: int | None = None


class Admission:
    """Counts what is open, and estimates when there will be room again."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._num_open = 0
        self._waiting_tokens = 0
        self._of_client: collections.Counter[str] = collections.Counter()
        self._mean_service_s = 1.0
        self._mean_tokens = 1.0
        self.is_draining = False
        self.is_broken = False
        """Whether the engine has ended by a bug, so that nobody can be answered any more."""

    def check(self, client: str, num_tokens: int = 0, num_requests: int = 1) -> None:
        """Raise ``Draining``, ``NotReady``, ``QueueFull`` or ``TooManyRequests`` if it must not.

        ``NotReady`` is for good: the engine has ended.

        ``num_tokens`` is the prompts and output they ask for, where that is known already. Raises
        ``InvalidRequest`` for more at once than could ever be.
        """
        if self.is_draining:
            raise Draining("the service is shutting down")
        if self.is_broken:
            raise NotReady(BROKEN)
        limits = self._limits
        max_open = limits.num_slots + limits.max_waiting_requests
        most = min(max_open, limits.max_requests_per_client or max_open)
        if num_requests > most:
            raise InvalidRequest(f"{num_requests} answers at once; there can be {most}", param="n")
        self._check_client(client, num_requests)
        if self._num_open + num_requests > max_open:
            raise QueueFull(
                f"{self._num_open} requests are running or waiting, the limit is {max_open}",
                retry_after_s=self._seconds(1 / limits.num_slots),
            )
        must_wait = self._num_open >= limits.num_slots
        excess = self._waiting_tokens + num_tokens - (limits.max_waiting_tokens or math.inf)
        if must_wait and self._waiting_tokens and excess > 0:  # an empty queue takes any request
            raise QueueFull(
                f"waiting requests ask for {self._waiting_tokens} tokens; with {num_tokens} more "
                f"they would exceed {limits.max_waiting_tokens}",
                retry_after_s=self._seconds(excess / (self._mean_tokens * limits.num_slots)),
            )

    def on_opened(self, client: str, num_tokens: int) -> None:
        """A request was accepted."""
        self._num_open += 1
        self._of_client[client] += 1
        self._waiting_tokens += num_tokens

    def on_started(self, num_tokens: int) -> None:
        """It waits no longer."""
        self._waiting_tokens -= num_tokens

    def on_ended(self, client: str, num_tokens: int, service_s: float | None) -> None:
        """It ended, after so long in a slot; ``None`` if it never had one."""
        self._num_open -= 1
        self._of_client[client] -= 1
        if not self._of_client[client]:
            del self._of_client[client]
        if service_s is None:
            self._waiting_tokens -= num_tokens
            return
        self._mean_service_s += LEARNING_RATE * (service_s - self._mean_service_s)
        self._mean_tokens += LEARNING_RATE * (num_tokens - self._mean_tokens)

    def _check_client(self, client: str, num_requests: int) -> None:
        limit = self._limits.max_requests_per_client
        num_open = self._of_client[client]
        if limit is not None and num_open + num_requests > limit:
            raise TooManyRequests(
                f"{num_open} requests with this key are running or waiting, the limit is {limit}",
                retry_after_s=self._seconds(1 / limit),
            )

    def _seconds(self, num_services: float) -> int:
        """How long it takes at the recent rate until so many requests' worth of a slot is done."""
        return max(1, math.ceil(num_services * self._mean_service_s))


def check_context(
    num_prompt_tokens: int,
    max_new_tokens: int,
    max_model_tokens: int,
    output_field: str = "max_new_tokens",
) -> None:
    """Raise unless prompt and output fit the model, naming both numbers."""
    if num_prompt_tokens == 0:
        raise InvalidRequest("prompt: it has no tokens", param="prompt")
    if num_prompt_tokens >= max_model_tokens + (max_new_tokens == 0):
        raise ContextExceeded(
            f"the prompt has {num_prompt_tokens} tokens, "
            f"the model takes at most {max_model_tokens - 1} and needs room for one more",
            param="prompt",
        )
    if num_prompt_tokens + max_new_tokens > max_model_tokens:
        raise ContextExceeded(
            f"{num_prompt_tokens} prompt tokens and {output_field} {excerpt(max_new_tokens)} "
            f"exceed the model's {max_model_tokens}; "
            f"ask for at most {max_model_tokens - num_prompt_tokens}",
            param=output_field,
        )
