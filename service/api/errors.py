"""Every error as a response: status by domain error in one table, one JSON shape for all."""

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service import errors
from service.api.schemas import ErrorBody, ErrorDetail

STATUS: Mapping[type[errors.ServiceError], int] = {
    errors.InvalidRequest: 422,
    errors.ContextExceeded: 422,
    errors.UnknownModel: 404,
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


def error_body(error: errors.ServiceError) -> ErrorBody:
    """The one error shape."""
    detail = ErrorDetail(message=error.message, type=error.type, code=error.code, param=error.param)
    return ErrorBody(error=detail)


def respond(
    error: errors.ServiceError,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error as the answer that routes, handlers and middleware give.

    The status is the one of the table unless another is given.
    """
    status = status or STATUS.get(type(error), 500)
    headers = {**_headers(error), **(headers or {})}
    return JSONResponse(error_body(error).model_dump(), status, headers=headers)


def install_error_handlers(app: FastAPI) -> None:
    """Give every foreseen way to fail its status and the one shape; ``faults`` has the rest."""

    @app.exception_handler(errors.ServiceError)
    async def on_service_error(request: Request, error: errors.ServiceError) -> JSONResponse:
        error.message = request.app.state.runtime.catalog.from_inside(error.message)
        return respond(error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid_body(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            reason = str(first.get("ctx", {}).get("error", "malformed"))
            return respond(errors.InvalidRequest(f"the body is not JSON: {reason}"), 400)
        place = [str(part) for part in first["loc"] if part != "body"]
        param = ".".join(place) or None
        message = _validation_message(str(first["type"]), str(first["msg"]), param)
        return respond(errors.InvalidRequest(message, param=param))

    @app.exception_handler(HTTPException)
    async def on_http_error(_: Request, error: HTTPException) -> JSONResponse:
        refused = errors.InvalidRequest(str(error.detail))
        refused.code = _HTTP_CODES.get(error.status_code, refused.code)
        return respond(refused, error.status_code, error.headers)


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
    return f"{param}: {message}" if param else message
