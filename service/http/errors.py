"""Every error as a response: status by domain error in one table, one JSON shape for all.

One that answers a request that was not accepted is a refusal, counted and logged here: whoever
refuses, for whatever reason, cannot forget it.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from service import errors
from service.excerpts import MAX_EXCERPT, MAX_MESSAGE, excerpt
from service.http.error_format import Dialect, dialect_of, status_in, tgi_error
from service.http.hints import body_model, field_hint, in_plain_words, path_hint, paths_of
from service.http.schema import ErrorBody, ErrorDetail

STATUS: Mapping[type[errors.ServiceError], int] = {
    errors.InvalidRequest: 422,
    errors.ContextExceeded: 422,
    errors.UnknownModel: 404,
    errors.MalformedHttp: 400,
    errors.HeadTooLarge: 431,
    errors.UrlTooLong: 414,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.QueueFull: 429,
    errors.TooManyRequests: 429,
    errors.ClientTooSlow: 408,
    errors.TooManyConnections: 503,
    errors.NotReady: 503,
    errors.NoRoom: 503,
    errors.Draining: 503,
    errors.DeadlineExceeded: 504,
    errors.GenerationFailed: 500,
}


logger = logging.getLogger(__name__)


class ErrorResponse(JSONResponse):
    """An error as an answer."""

    def __init__(
        self, error: errors.ServiceError, body: object, status: int, headers: Mapping[str, str]
    ) -> None:
        super().__init__(body, status, headers)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; an accepted request, of which ``answer`` leaves a note, has its own metrics."""
        if not scope["state"].get("is_accepted"):
            error, arrival = self._error, scope["state"]["arrival"]
            scope["app"].state.runtime.metrics.requests.on_refused(error.code)
            fields = {
                "id": arrival.request_id,
                "route": arrival.route,
                "reason": error.code,
                "error": error.message,
            }
            logger.info("request refused", extra={"fields": fields})
        await super().__call__(scope, receive, send)


def error_body(error: errors.ServiceError) -> ErrorBody:
    """The one error shape."""
    message = excerpt(error.message, MAX_MESSAGE)
    detail = ErrorDetail(message=message, type=error.type, code=error.code, param=error.param)
    return ErrorBody(error=detail)


def respond(
    error: errors.ServiceError,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    dialect: Dialect = Dialect.OWN,
) -> ErrorResponse:
    """An error as the answer that routes, handlers and middleware give.

    The status is the one of the table unless another is given.
    """
    status = status_in(dialect, status or STATUS.get(type(error), 500))
    headers = {**_headers(error), **(headers or {})}
    body = tgi_error(error) if dialect is Dialect.TGI else error_body(error).model_dump()
    return ErrorResponse(error, body, status, headers)


def dialect_in(request: Request, body: object = None) -> Dialect:
    """The dialect of a request: as its route says, or as its path and body do."""
    said: Dialect | None = getattr(request.state, "dialect", None)
    return said or dialect_of(request.method, request.url.path, body)


def install_error_handlers(app: FastAPI) -> None:
    """Give every foreseen way to fail its status and the one shape; ``faults`` has the rest."""

    @app.exception_handler(errors.ServiceError)
    async def on_service_error(request: Request, error: errors.ServiceError) -> JSONResponse:
        error.message = request.app.state.runtime.catalog.from_inside(error.message)
        return respond(error, dialect=dialect_in(request))

    @app.exception_handler(RequestValidationError)
    async def on_invalid_body(request: Request, error: RequestValidationError) -> JSONResponse:
        dialect = dialect_in(request, error.body)
        first = _nearest(error.errors())
        context = first.get("ctx", {})
        if first["type"] == "json_invalid":
            reason = excerpt(context.get("error", "malformed"))
            refused = errors.InvalidRequest(f"the body is not JSON: {reason}")
            return respond(refused, 400, dialect=dialect)
        if first["type"] == "refused_field":
            place, field = _place(first["loc"]), str(context["param"])
            nested = place and place.rpartition(".")[2] != field
            where = excerpt(f"{place}.{field}" if nested else place or field)
            refused = errors.InvalidRequest(str(first["msg"]), param=where)
            return respond(refused, dialect=dialect)
        param = excerpt(_place(first["loc"])) or None
        message = _validation_message(str(first["type"]), _short(first), param)
        if first["type"] == "extra_forbidden":
            message += field_hint(str(first["loc"][-1]), body_model(request.scope.get("route")))
        return respond(errors.InvalidRequest(message, param=param), dialect=dialect)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        refused = errors.InvalidRequest(_http_message(request, error))
        refused.code = _HTTP_CODES.get(error.status_code, refused.code)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_methods(request))
        return respond(refused, error.status_code, headers, dialect_in(request))


def _http_message(request: Request, error: HTTPException) -> str:
    """What is wrong with a path or a method, and what is there."""
    method, path = request.method, excerpt(request.url.path)
    if error.status_code == 404 and error.detail == "Not Found":
        return path_hint(method, path, paths_of(request.app.routes))
    if error.status_code == 405:
        return f"{method} does nothing at {path}; it takes {', '.join(_methods(request))}"
    return str(error.detail)


def _methods(request: Request) -> list[str]:
    """What a path answers to; starlette names the methods of one of its routes alone."""
    return [
        method
        for method in ("GET", "HEAD", "POST")
        for scope in [{**request.scope, "method": method}]
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
    ]


_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def _headers(error: errors.ServiceError) -> dict[str, str]:
    match error:
        case errors.QueueFull():
            return {"Retry-After": str(error.retry_after_s)}
        case errors.Unauthorized():
            return {"WWW-Authenticate": "Bearer"}
        case _:
            return {}


def _validation_message(kind: str, message: str, param: str | None) -> str:
    if kind == "extra_forbidden":
        return f"unknown field {param!r}"
    if kind == "missing" and param is None:
        return "a JSON body is required"
    if kind == "model_attributes_type" and param is None:
        return "the body has to be a JSON object, with content-type: application/json"
    return f"{param}: {in_plain_words(message)}" if param else in_plain_words(message)


OURS = ("expected", "pattern")
"""What a message repeats of a field's type, not of what was sent."""


def _short(error: Any) -> str:
    """The library's message; what it repeats of a value is cut."""
    message = str(error["msg"])
    for name, value in ((name, str(value)) for name, value in error.get("ctx", {}).items()):
        if name not in OURS and len(value) > MAX_EXCERPT // 2:
            message = message.replace(value, excerpt(value, MAX_EXCERPT // 2))
    return excerpt(message, MAX_MESSAGE)


def _nearest(found: Sequence[Any]) -> Any:
    """The first error; of a union's branches the one that the input came furthest in."""
    same_field = [one for one in found if one["loc"][:2] == found[0]["loc"][:2]]
    return max(same_field, key=lambda one: len(one["loc"]))


def _place(location: Sequence[object]) -> str:
    """Dotted name of a field, without what pydantic says about unions."""
    tags = {"body", "generate", "tgi"}
    names = [str(part) for part in location if part not in tags]
    return ".".join(name for name in names if name.isidentifier() or name.isdecimal())
