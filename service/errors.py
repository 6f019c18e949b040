"""What can go wrong with a request, one meaning each. ``api.errors`` gives them their status.

ServiceError
├── InvalidRequest       the request makes no sense; ``param`` names the field
├── ContextExceeded      prompt and output do not fit the model
├── UnknownModel         no such checkpoint, or one that must not be served
├── MalformedHttp        what came is no HTTP
├── HeadTooLarge         what is not a request's body is too long
├── UrlTooLong           a request's target is too long
├── Unauthorized         the key is missing or wrong
├── Forbidden            nobody may do this: no key is set for it
├── QueueFull            too much waits; try again after ``retry_after_s``
│   └── TooManyRequests  one client has too many requests open
├── ClientTooSlow        a request did not become whole in time
├── TooManyConnections   every connection is in use
├── NotReady             no model is served yet
├── NoRoom               the model that was named does not fit beside those in use
├── Draining             the service is shutting down
├── DeadlineExceeded     the request's time ran out
└── GenerationFailed     the model's step failed
"""

from service.excerpts import excerpt


class ServiceError(Exception):
    """A request that is not answered with text; the message is for the client."""

    code = "internal_error"
    type = "server_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = None if param is None else excerpt(param)


class InvalidRequest(ServiceError):
    """The request makes no sense."""

    code = "invalid_request"
    type = "invalid_request_error"


class ContextExceeded(InvalidRequest):
    """Prompt and output do not fit the model."""

    code = "context_length_exceeded"


class UnknownModel(InvalidRequest):
    """No such checkpoint, or one that must not be served."""

    code = "model_not_found"


class MalformedHttp(InvalidRequest):
    """What came is no HTTP."""


class HeadTooLarge(InvalidRequest):
    """What is not a request's body is too long."""

    code = "head_too_large"


class UrlTooLong(InvalidRequest):
    """A request's target is too long."""

    code = "url_too_long"


class Unauthorized(ServiceError):
    """The key is missing or wrong."""

    code = "unauthorized"
    type = "authentication_error"


class Forbidden(ServiceError):
    """Nobody may do this: no key is set for it."""

    code = "forbidden"
    type = "permission_error"


class QueueFull(ServiceError):
    """Too much waits."""

    code = "queue_full"
    type = "overloaded_error"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyRequests(QueueFull):
    """One client has too many requests open."""

    code = "too_many_requests"


class ClientTooSlow(ServiceError):
    """A request did not become whole in time."""

    code = "request_timeout"
    type = "timeout_error"


class TooManyConnections(ServiceError):
    """Every connection is in use."""

    code = "too_many_connections"
    type = "overloaded_error"


class NotReady(ServiceError):
    """No model is served yet."""

    code = "not_ready"


class NoRoom(ServiceError):
    """The model that was named does not fit beside those in use."""

    code = "no_room"
    type = "overloaded_error"


class Draining(ServiceError):
    """The service is shutting down."""

    code = "draining"


class DeadlineExceeded(ServiceError):
    """The request's time ran out."""

    code = "deadline_exceeded"
    type = "timeout_error"


class GenerationFailed(ServiceError):
    """The model's step failed."""

    code = "generation_failed"
