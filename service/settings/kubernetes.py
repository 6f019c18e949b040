"""Variables that Kubernetes puts into pods beside a Service whose name begins with nestling."""

import re

_LINK = re.compile(r"NESTLING_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP)(_\w+)?)")
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")
"""Begins the value of ``NESTLING_PORT`` if the Service is called just that."""


def is_service_variable(name: str, value: str) -> bool:
    """Whether Kubernetes wrote this variable."""
    return _LINK.fullmatch(name) is not None or is_service_address(value)


def is_service_address(value: str) -> bool:
    """Whether Kubernetes wrote this value."""
    return _ADDRESS.match(value) is not None
