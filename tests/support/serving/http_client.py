"""HTTP clients that share one TLS context: none of ours uses it, and each would load it anew."""

import functools
import ssl
from typing import Any

import httpx


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def http_client(**options: Any) -> httpx.Client:
    """``httpx.Client`` without the twentieth of a second."""
    return httpx.Client(verify=_tls(), **options)
