"""What a step brought one HTTP process, in one frame: packed arrays for tokens, JSON for the rest.

Requests are numbered by the HTTP process. Of one request, events keep their order: what comes
before tokens (``Started``, ``PromptScored``) is in the first list, plain tokens are in the arrays,
and what comes after (``Finished``, and tokens with scores, which no request mixes with plain
ones) is in the last.
"""

import array
import dataclasses
import json
import struct
from typing import Any, Protocol

from service.engine.request import (
    Event,
    Finished,
    FinishReason,
    PromptScored,
    Started,
    TokenGenerated,
    TokenScore,
)
from service.processes.wire.frames import ID_TYPE

HEAD = struct.Struct("<ddIIII")
"""When the step began and ended; number of tokens; bytes of the lists and of the texts."""
LENGTH_TYPE = "I"


class TurnWriter:
    """Collects one HTTP process's events of one step."""

    def __init__(self) -> None:
        self.numbers = array.array(ID_TYPE)
        self.token_ids = array.array(ID_TYPE)
        self._texts: list[str] = []
        self._has_text = False
        self._before: list[list[Any]] = []
        self._after: list[list[Any]] = []

    def add(self, number: int, event: Event) -> None:
        """Take in an event of the request with this number."""
        match event:
            case TokenGenerated(score=None):
                self.numbers.append(number)
                self.token_ids.append(event.token_id)
                self._texts.append(event.text)
                self._has_text = self._has_text or bool(event.text)
            case TokenGenerated(score=score):
                self._after.append([number, event.token_id, event.text, _said(score)])
            case Started():
                self._before.append([number, event.num_reused])
            case PromptScored():
                self._before.append([number, [_said(score) for score in event.scores]])
            case Finished():
                end = [event.text, event.message, event.by_text, event.is_refusal]
                self._after.append([number, event.reason.value, *end, _said(event.score)])

    def payload(self, began_at: float, at: float) -> bytes:
        """All of it in bytes; clock readings in seconds."""
        before, after = (
            json.dumps(events, separators=(",", ":")).encode() if events else b""
            for events in (self._before, self._after)
        )
        texts = lengths = b""
        if self._has_text:
            encoded = [text.encode("utf-8", "surrogatepass") for text in self._texts]
            lengths = array.array(LENGTH_TYPE, map(len, encoded)).tobytes()
            texts = b"".join(encoded)
        head = HEAD.pack(
            began_at, at, len(self.numbers), len(before), len(after), len(lengths) + len(texts)
        )
        tokens = self.numbers.tobytes() + self.token_ids.tobytes()
        return b"".join((head, before, tokens, lengths, texts, after))


@dataclasses.dataclass(frozen=True)
class ReadTurn:
    """A step's events as they were written, with numbers instead of request ids."""

    began_at: float
    at: float
    before: list[list[Any]]
    numbers: "array.array[int]"
    token_ids: "array.array[int]"
    texts: list[str] | None
    """``None`` where no token has any."""
    after: list[list[Any]]


def read_turn(payload: bytes) -> ReadTurn:
    """Take a payload apart."""
    began_at, at, num_tokens, num_before, num_after, num_texts = HEAD.unpack_from(payload)
    start = HEAD.size
    before = json.loads(payload[start : start + num_before]) if num_before else []
    start += num_before
    numbers, token_ids = array.array(ID_TYPE), array.array(ID_TYPE)
    size = num_tokens * numbers.itemsize
    numbers.frombytes(payload[start : start + size])
    token_ids.frombytes(payload[start + size : start + 2 * size])
    start += 2 * size
    texts = _read_texts(payload[start : start + num_texts], num_tokens) if num_texts else None
    start += num_texts
    after = json.loads(payload[start : start + num_after]) if num_after else []
    return ReadTurn(began_at, at, before, numbers, token_ids, texts, after)


class Names(Protocol):
    """What an HTTP process knows of requests by their numbers."""

    def name(self, number: int) -> str:
        """Its own id of the request."""
        ...

    def token_text(self, number: int, token_id: int, text: str) -> str:
        """A token's text, given the one that the engine made."""
        ...

    def end_text(self, number: int, text: str) -> str:
        """What was held back until the request's end; nothing is asked of it any more."""
        ...


def events_of(turn: ReadTurn, names: Names) -> list[Event]:
    """Events under the HTTP process's own ids."""
    events: list[Event] = [_before(names.name(number), said) for number, said in turn.before]
    texts = turn.texts or [""] * len(turn.numbers)
    name, token_text = names.name, names.token_text
    for number, token_id, text in zip(turn.numbers, turn.token_ids, texts, strict=True):
        made = token_text(number, token_id, text)
        events.append(TokenGenerated(name(number), token_id, made))
    events.extend(_after(names, number, said) for number, *said in turn.after)
    return events


def _read_texts(packed: bytes, count: int) -> list[str]:
    lengths = array.array(LENGTH_TYPE)
    start = count * lengths.itemsize
    lengths.frombytes(packed[:start])
    texts = []
    for length in lengths:
        texts.append(packed[start : start + length].decode("utf-8", "surrogatepass"))
        start += length
    return texts


def _said(score: TokenScore | None) -> list[Any] | None:
    return None if score is None else [score.token_id, score.logprob, score.top]


def _score(said: list[Any] | None) -> TokenScore | None:
    if said is None:
        return None
    token_id, logprob, top = said
    return TokenScore(token_id, logprob, tuple((token, value) for token, value in top))


def _before(request_id: str, said: int | list[Any]) -> Event:
    if isinstance(said, int):
        return Started(request_id, said)
    scores = [score for one in said if (score := _score(one)) is not None]
    return PromptScored(request_id, tuple(scores))


def _after(names: Names, number: int, said: list[Any]) -> Event:
    request_id = names.name(number)
    if isinstance(said[0], int):
        token_id, text, score = said
        text = names.token_text(number, token_id, text)
        return TokenGenerated(request_id, token_id, text, _score(score))
    reason, text, message, by_text, is_refusal, score = said
    return Finished(
        request_id,
        FinishReason(reason),
        names.end_text(number, text),
        message,
        by_text=by_text,
        score=_score(score),
        is_refusal=is_refusal,
    )
