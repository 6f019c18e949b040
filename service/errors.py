"""What can go wrong with a request, one meaning each. ``api.errors`` gives them their status.

ServiceError
├── InvalidRequest       the request makes no sense; ``param`` names the field
├── ContextExceeded      prompt and output do not fit the model
├── QueueFull            too many requests wait; try again after ``retry_after_s``
├── NotReady             no model is served yet
├── Draining             the service is shutting down
├── DeadlineExceeded     the request's time ran out
└── GenerationFailed     the model's step failed
"""


class ServiceError(Exception):
    """A request that is not answered with text; the message is for the client."""

    code = "internal_error"
    type = "server_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(ServiceError):
    """The request makes no sense."""

    code = "invalid_request"
    type = "invalid_request_error"


class ContextExceeded(InvalidRequest):
    """Prompt and output do not fit the model."""

    code = "context_length_exceeded"


class QueueFull(ServiceError):
    """Too many requests wait."""

    code = "queue_full"
    type = "overloaded_error"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(ServiceError):
    """No model is served yet."""

    code = "not_ready"


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
