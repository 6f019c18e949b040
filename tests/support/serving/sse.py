"""A small client of ``POST /generate`` with ``stream``: reads frames as the contract says them."""

import dataclasses
import json
from typing import Any

import httpx


@dataclasses.dataclass
class Stream:
    """One streamed answer, taken apart."""

    status: int
    headers: httpx.Headers
    events: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """JSON of every frame but the last."""
    comments: list[str] = dataclasses.field(default_factory=list)
    is_done: bool = False
    """Whether ``data: [DONE]`` came, as the last frame."""

    def feed(self, frame: str) -> None:
        """Take in one frame, without the empty line after it."""
        assert not self.is_done, f"a frame after [DONE]: {frame!r}"
        if frame.startswith(":"):
            self.comments.append(frame)
        elif frame == "data: [DONE]":
            self.is_done = True
        else:
            assert frame.startswith("data: {"), frame
            assert "\n" not in frame
            self.events.append(json.loads(frame.removeprefix("data: ")))

    @property
    def final(self) -> dict[str, Any]:
        """The last event: ending or error."""
        return self.events[-1]

    @property
    def text(self) -> str:
        """Texts of all events joined."""
        return "".join(event.get("text", "") for event in self.events)

    @property
    def token_ids(self) -> list[int]:
        """Tokens in order."""
        return [event["token_id"] for event in self.events if "token_id" in event]


def stream_generate(client: httpx.Client, **body: Any) -> Stream:
    """Post a streamed request and read it to its end."""
    with client.stream("POST", "/generate", json={**body, "stream": True}) as response:
        stream = Stream(response.status_code, response.headers)
        if response.status_code != httpx.codes.OK:
            stream.events.append(json.loads(response.read()))
            return stream
        rest = ""
        for piece in response.iter_text():
            *frames, rest = (rest + piece).split("\n\n")
            for frame in frames:
                stream.feed(frame)
        assert rest == "", "the stream ends with a whole frame"
        return stream
