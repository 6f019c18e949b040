"""Frames between an engine's process and an HTTP process: a length, a kind, and plain data.

Most frames are a JSON object and some bytes behind it (``messages``); they come a few times a
request. What comes with every step is in ``turns``.
"""

import enum
import json
import struct
from collections.abc import Iterator
from typing import Any

HEADER = struct.Struct("<IB")
"""Length of what follows the header, and the kind."""
LENGTH = struct.Struct("<I")
NUMBER = struct.Struct("<I")
ID_TYPE = "I"
"""Of token ids and request numbers: 32 bits without a sign."""


class Kind(enum.IntEnum):
    """What a frame says."""

    SUBMIT = 1
    """HTTP: queue these requests, all or none."""
    VERDICT = 2
    """Engine: they are accepted, or why not."""
    ABORT = 3
    """HTTP: end a request."""
    TURN = 4
    """Engine: what a step brought."""
    TOKENIZER = 5
    """Engine: a tokenizer that later cards name."""
    CURRENT = 6
    """Engine: the card of new requests' model, or that there is none."""
    NAME = 7
    """HTTP: the card of the model with this name, please."""
    NAMED = 8
    """Engine: here it is, or why not."""
    RELEASE = 9
    """HTTP: a card is no longer in use."""
    CALL = 10
    """HTTP: a whole HTTP request that the engine's process answers."""
    ANSWER = 11
    """Engine: its answer."""
    FORGET = 12
    """HTTP: nobody waits for this card or answer any more."""


def frame(kind: Kind, payload: bytes) -> bytes:
    """Payload with its header."""
    return HEADER.pack(len(payload), kind) + payload


def message(kind: Kind, head: dict[str, Any], body: bytes = b"") -> bytes:
    """A frame of an object and bytes."""
    said = json.dumps(head, separators=(",", ":")).encode()
    return frame(kind, LENGTH.pack(len(said)) + said + body)


def read(payload: bytes) -> tuple[dict[str, Any], bytes]:
    """The object and the bytes of a payload."""
    (length,) = LENGTH.unpack_from(payload)
    end = LENGTH.size + length
    return json.loads(payload[LENGTH.size : end]), payload[end:]


class Splitter:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """Kinds and payloads of the frames that are now whole."""
        self._pending += data
        start = 0
        while len(self._pending) - start >= HEADER.size:
            length, kind = HEADER.unpack_from(self._pending, start)
            end = start + HEADER.size + length
            if end > len(self._pending):
                break
            payload = bytes(self._pending[start + HEADER.size : end])
            start = end
            yield Kind(kind), payload
        del self._pending[:start]
