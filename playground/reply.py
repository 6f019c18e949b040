"""A chat's answer, put together from the chunks of ``POST /v1/chat/completions``."""

from playground import text as words
from playground.client import Json
from playground.timing import Stopwatch


class Reply:
    """What was heard so far."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch
        self._num_tokens = 0
        self._model = self._reason = ""
        self.text = ""

    def hear(self, chunk: Json) -> None:
        """Take a chunk; the last has the usage and no choice."""
        self._model = chunk["model"]
        for choice in chunk["choices"]:
            content = choice["delta"].get("content")
            if content:
                self._stopwatch.saw_text()
                self.text += content
            self._reason = choice["finish_reason"] or ""
        if chunk.get("usage"):
            self._num_tokens = chunk["usage"]["completion_tokens"]

    @property
    def ending(self) -> str:
        """The line under it, once it has ended."""
        pace = self._stopwatch.pace(self._num_tokens)
        return words.ending(pace, f"`{self._model}`", self._reason)
