"""What a person set beside a prompt or a chat, as fields of a request."""

import dataclasses

from playground.client import Json, Problem

NEWEST = "newest"


@dataclasses.dataclass(frozen=True)
class Asking:
    """Values of the controls; ``controls.Controls`` has a component of each name."""

    model: str = NEWEST
    temperature: float = 0.8
    top_p: float = 1.0
    top_k: float = 50
    max_tokens: float = 100
    seed: str = ""
    """Digits: a drawn seed has more of them than a number in a browser can hold."""
    stop: str = ""
    """Texts that end an answer, one a line."""

    def fields(self, limit: str) -> Json:
        """Of a request whose field for the most tokens is ``limit``; raises ``Problem``."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": int(self.top_k),
            limit: int(self.max_tokens),
            "stop": [line for line in self.stop.split("\n") if line],
            **chosen(self.model),
            **self._seed(),
        }

    def _seed(self) -> Json:
        text = self.seed.strip()
        if not text:
            return {}
        if not (text.isascii() and text.isdigit()):
            raise Problem(f"the seed is to be a whole number, and {text!r} is none")
        return {"seed": int(text)}


def chosen(model: str) -> Json:
    """The field that names a checkpoint; none where the service should choose."""
    return {} if model in ("", NEWEST) else {"model": model}
