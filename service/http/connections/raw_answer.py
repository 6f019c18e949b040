"""Errors as bytes, for connections on which no request came to a route."""

import http
import uuid

from service.errors import ServiceError
from service.http.errors import STATUS, error_body
from service.http.middleware.arrival import REQUEST_ID_HEADER, STANDING_HEADERS, UNCACHED


def raw_answer(error: ServiceError) -> bytes:
    """A whole answer, of the one shape of all errors."""
    status = http.HTTPStatus(STATUS[type(error)])
    body = error_body(error).model_dump_json().encode()
    headers = (
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        UNCACHED,
        *STANDING_HEADERS,
        (REQUEST_ID_HEADER.encode(), uuid.uuid4().hex.encode()),
    )
    lines = [name + b": " + value + b"\r\n" for name, value in headers]
    first = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    return b"".join((first, *lines, b"\r\n", body))
