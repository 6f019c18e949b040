"""From token ids to the text that may be sent: whole characters, nothing of a stop string.

Only a tail that is a proper prefix of a stop string is held back, so a stream is never delayed
by the length of its longest stop string.
"""

from collections.abc import Sequence

from lm.text.incremental import incremental_decoder
from lm.text.tokenizer import Tokenizer


class StopMatcher:
    """Finds the first stop string in a growing text."""

    def __init__(self, stops: tuple[str, ...], *, include_stop: bool = False) -> None:
        self._stops = stops
        self._include_stop = include_stop
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """Add a piece; returns the text that is now decided, and whether a stop was found."""
        if not self._stops:
            return piece, False
        text = self._held + piece
        found = [(start, len(s)) for s in self._stops if (start := text.find(s)) >= 0]
        if found:
            self._held = ""
            start, length = min(found)
            return text[: start + length * self._include_stop], True
        keep = self._undecided_length(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held

    def _undecided_length(self, text: str) -> int:
        """Length of the longest tail that is a proper prefix of a stop string."""
        return max(
            (
                length
                for stop in self._stops
                for length in range(min(len(stop) - 1, len(text)), 0, -1)
                if text.endswith(stop[:length])
            ),
            default=0,
        )


class TextStream:
    """Decodes one request's tokens and watches for its stop strings.

    What goes on with a prompt keeps the space that it begins with.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: tuple[str, ...],
        *,
        prompt_ids: Sequence[int] = (),
        include_stop: bool = False,
    ) -> None:
        special = tokenizer.special_token_ids
        at_start = all(token_id in special for token_id in prompt_ids)
        self._decoder = incremental_decoder(tokenizer, at_start=at_start)
        self._matcher = StopMatcher(stops, include_stop=include_stop)

    def push(self, token_id: int, *, may_stop: bool = True) -> tuple[str, bool]:
        """Add a token; returns text to send, and whether a stop string ended the answer.

        Stop strings are looked for in what comes after the last token that may not stop.
        """
        text = self._decoder.push(token_id)
        return self._matcher.push(text) if may_stop else (text, False)

    def finish(self) -> tuple[str, bool]:
        """Text to send at the end, and whether a stop string completed only there."""
        text, stopped = self._matcher.push(self._decoder.finish())
        return (text, True) if stopped else (text + self._matcher.finish(), False)


class NoText(TextStream):
    """For a request whose text is made by whoever asked for it: there is none to send."""

    def __init__(self) -> None:
        """Nothing to decode with."""

    def push(self, token_id: int, *, may_stop: bool = True) -> tuple[str, bool]:  # noqa: ARG002
        """No text, and no stop string in it."""
        return "", False

    def finish(self) -> tuple[str, bool]:
        """No text, and no stop string in it."""
        return "", False
