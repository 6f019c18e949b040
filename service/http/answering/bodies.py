"""Takes a request's body in: read and checked at a bounded cost, and a large one beside the loop.

``BoundedRoute`` does before a route what FastAPI does: what it hands on is read and checked, and
FastAPI finds nothing left to do.
"""

import email.message
import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.front import Front
from service.http.answering.json_text import (
    BYTES_A_VALUE,
    MIN_VALUES,
    TooManyValues,
    Unreadable,
    read_json,
)
from service.http.stream import ClientGone, until_gone
from service.requests.request_start import Arrival

INLINE_BODY_BYTES = 1 << 14
"""A larger body is read in a thread: what is read in the loop delays all tokens."""
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left; nobody receives it."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Validate = Callable[..., tuple[object, list[Any]]]
"""FastAPI's: a value, and errors with their places."""


class TakenRequest(Request):
    """A request whose body was read, and maybe checked, already."""

    def __init__(self, request: Request, content: bytes, said: object) -> None:
        super().__init__(request.scope, request.receive)
        self._content = content
        self._said = said

    async def body(self) -> bytes:
        """The bytes."""
        return self._content

    async def json(self) -> Any:
        """What they say, or what was made of it."""
        return self._said


class BoundedRoute(APIRoute):
    """A route with a body of JSON."""

    def get_route_handler(self) -> Handler:
        """Take the body in, then go on as FastAPI does."""
        handle = super().get_route_handler()
        field: Any = self.body_field

        async def take_and_handle(request: Request) -> Response:
            if field is None:
                return await handle(request)
            try:
                return await handle(await _taken(request, field.validate))
            except ClientGone:
                return Response(status_code=CLIENT_CLOSED_REQUEST)

        return take_and_handle


def is_large(request: Request) -> bool:
    """Whether a request's body was too large to be worked on in the event loop."""
    return bool(getattr(request.state, "is_large", False))


async def _taken(request: Request, validate: Validate) -> Request:
    """A request with its body read; raises what says why not, or ``ClientGone``."""
    try:
        content = await request.body()
    except ClientDisconnect as error:
        raise ClientGone from error
    front: Front = request.app.state.runtime
    arrival: Arrival = request.state.arrival
    if not (content and _is_json(request.headers.get("content-type"))):
        await front.turnstile.enter()
        return TakenRequest(request, content, None)
    max_values = max(MIN_VALUES, front.settings.max_body_bytes // BYTES_A_VALUE)

    def said() -> object:
        return _read(content, max_values)

    if len(content) <= INLINE_BODY_BYTES:
        await front.turnstile.enter()
        return TakenRequest(request, content, said())
    request.state.is_large = True
    checking = front.short_lane.do(arrival.party, lambda: _checked(validate, said()))
    checked = await until_gone(request, checking)
    await front.turnstile.enter()
    return TakenRequest(request, content, checked)


def _checked(validate: Validate, said: object) -> object:
    value, errors = validate(said, {}, loc=("body",))
    if errors:
        raise RequestValidationError(errors, body=said)
    return value


def _read(content: bytes, max_values: int) -> object:
    """What a body says; raises as FastAPI does for what is no JSON."""
    try:
        return read_json(content, max_values)
    except json.JSONDecodeError as error:
        place = ("body", error.pos)
        found = {"type": "json_invalid", "loc": place, "msg": "JSON decode error", "input": {}}
        raise RequestValidationError([found | {"ctx": {"error": error.msg}}]) from error
    except Unreadable as error:
        status = 413 if isinstance(error, TooManyValues) else 400
        raise HTTPException(status, str(error)) from error


def _is_json(content_type: str | None) -> bool:
    """As FastAPI decides it; other bodies are refused there."""
    message = email.message.Message()
    message["content-type"] = content_type or ""
    kind = message.get_content_subtype()
    is_application = message.get_content_maintype() == "application"
    return is_application and (kind == "json" or kind.endswith("+json"))
