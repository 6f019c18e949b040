"""What is known of a request as it arrives; ``service.api.entrance`` notes it down."""

import dataclasses

ANYBODY = ""
"""The client where no keys are asked for."""


@dataclasses.dataclass(frozen=True)
class Arrival:
    """A request before its body is read; routes find it through ``ArrivalDep``."""

    at: float
    """Reading of the service's clock: latencies and deadlines count from here."""
    route: str
    request_id: str
    """The client's own ``x-request-id``, or one that was drawn; returned with the answer."""
    client: str = ANYBODY
    """Whose key it came with, as the first digits of the key's hash."""
    address: str = ANYBODY
    """Where it came from."""

    @property
    def owner(self) -> str:
        """Who shares what there is with others: a key, else an address."""
        return self.client or self.address
