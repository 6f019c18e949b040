"""How each protocol says an error: which status, which shape.

Ours and OpenAI's have one shape, but what OpenAI answers with 400 is 422 elsewhere; TGI has its
own.
"""

import enum
from collections.abc import Mapping

from service import errors
from service.excerpts import MAX_MESSAGE, excerpt


class Dialect(enum.Enum):
    """Whose clients a route speaks with."""

    OWN = "own"
    OPENAI = "openai"
    TGI = "tgi"


def dialect_of(method: str, path: str, body: object = None) -> Dialect:
    """The dialect that a request is answered in."""
    if path.startswith("/v1/"):
        return Dialect.OPENAI
    if method == "POST" and path in ("/", "/generate_stream"):
        return Dialect.TGI
    if path == "/generate" and isinstance(body, dict) and "inputs" in body:
        return Dialect.TGI
    return Dialect.OWN


def status_in(dialect: Dialect, status: int) -> int:
    """The status as this protocol's clients know it."""
    return 400 if dialect is Dialect.OPENAI and status == 422 else status


_TGI_TYPES: Mapping[type[errors.ServiceError], str] = {
    errors.QueueFull: "overloaded",
    errors.NoRoom: "overloaded",
    errors.NotReady: "unhealthy",
    errors.Draining: "unhealthy",
    errors.GenerationFailed: "generation",
    errors.DeadlineExceeded: "incomplete_generation",
}


def tgi_error(error: errors.ServiceError) -> dict[str, str]:
    """TGI's shape of an error."""
    return {
        "error": excerpt(error.message, MAX_MESSAGE),
        "error_type": _TGI_TYPES.get(type(error), "validation"),
    }
