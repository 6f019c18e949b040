"""A refusal of a checkpoint, which the gate and the backends raise."""


class CheckpointRefused(ValueError):
    """A checkpoint must not be served; ``reason`` is one word for metrics and lists."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
