"""What is known of a request as it arrives; ``service.http.middleware.arrival`` notes it down."""

import dataclasses
import ipaddress
from collections.abc import Sequence

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
    address: str = ""
    """Whose connection it came on; an IPv6 address's network (/64), which is one customer's."""

    @property
    def party(self) -> str:
        """Who shares fairly with others: a key's holder, else an address."""
        return self.client or self.address


def address_of(client: Sequence[object] | None) -> str:
    """The address in ASGI's ``client``; empty where there is none, as on a Unix socket."""
    if not client:
        return ""
    try:
        address = ipaddress.ip_address(str(client[0]).partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
