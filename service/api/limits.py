"""Whether a request is let in, decided before anything is queued or any header is sent."""

import math

from service.errors import ContextExceeded, Draining, InvalidRequest, QueueFull


class Admission:
    """Counts against the queue's limit, and estimates when there will be room again."""

    def __init__(self, *, num_slots: int, max_waiting_requests: int) -> None:
        self._num_slots = num_slots
        self._max_open = num_slots + max_waiting_requests
        self._mean_service_s = 1.0
        self.is_draining = False

    def check(self, num_open: int) -> None:
        """Raise ``Draining`` or ``QueueFull`` unless one more request may be accepted."""
        if self.is_draining:
            raise Draining("the service is shutting down")
        if num_open >= self._max_open:
            raise QueueFull(
                f"{num_open} requests are running or waiting, the limit is {self._max_open}",
                retry_after_s=self.retry_after_s(),
            )

    def retry_after_s(self) -> int:
        """Seconds until a slot is likely to be free: slots free up at the recent rate."""
        return max(1, math.ceil(self._mean_service_s / self._num_slots))

    def on_finished(self, service_s: float) -> None:
        """Learn how long a request held its slot (an exponential moving average)."""
        self._mean_service_s += 0.1 * (service_s - self._mean_service_s)


def check_context(num_prompt_tokens: int, max_new_tokens: int, max_model_tokens: int) -> None:
    """Raise unless prompt and output fit the model, naming both numbers."""
    if num_prompt_tokens == 0:
        raise InvalidRequest("prompt: it has no tokens", param="prompt")
    if num_prompt_tokens >= max_model_tokens:
        raise ContextExceeded(
            f"the prompt has {num_prompt_tokens} tokens, "
            f"the model takes at most {max_model_tokens - 1} and needs room for one more",
            param="prompt",
        )
    if num_prompt_tokens + max_new_tokens > max_model_tokens:
        raise ContextExceeded(
            f"{num_prompt_tokens} prompt tokens and max_new_tokens {max_new_tokens} exceed the "
            f"model's {max_model_tokens}; ask for at most {max_model_tokens - num_prompt_tokens}",
            param="max_new_tokens",
        )
