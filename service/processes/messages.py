"""Frames between an engine's process and an HTTP process: a length, a kind, and plain data.

Most frames are a JSON object and some bytes behind it; they come a few times a request. What comes
with every step is in ``turns``.
"""

import array
import dataclasses
import enum
import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer as Backend

from lm.sampling import SamplingParams
from lm.tokenizer import Tokenizer
from service import errors
from service.engine.request import GenerationRequest
from service.engine.served import Checkpoint, ModelCard

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


_REQUEST_FIELDS = tuple(
    field
    for field in dataclasses.fields(GenerationRequest)
    if field.name not in {"prompt_ids", "sampling"}
)
_SAMPLING_FIELDS = dataclasses.fields(SamplingParams)


def encode_request(request: GenerationRequest) -> tuple[dict[str, Any], bytes]:
    """A request as an object without what has its default, and the prompt's token ids."""
    head = {
        field.name: value
        for field in _REQUEST_FIELDS
        if (value := getattr(request, field.name)) != field.default
    }
    head["sampling"] = {
        field.name: value
        for field in _SAMPLING_FIELDS
        if (value := getattr(request.sampling, field.name)) != field.default
    }
    head["num_prompt"] = len(request.prompt_ids)
    return head, array.array(ID_TYPE, request.prompt_ids).tobytes()


def decode_request(head: dict[str, Any], prompt: bytes) -> GenerationRequest:
    """The request that ``encode_request`` was given."""
    fields = {name: value for name, value in head.items() if name != "num_prompt"}
    sampling = dict(fields.pop("sampling"))
    if "logit_bias" in sampling:
        sampling["logit_bias"] = tuple((token, bias) for token, bias in sampling["logit_bias"])
    for name in ("stop", "stop_token_ids"):
        if name in fields:
            fields[name] = tuple(fields[name])
    prompt_ids = tuple(array.array(ID_TYPE, prompt))
    return GenerationRequest(prompt_ids=prompt_ids, sampling=SamplingParams(**sampling), **fields)


def prompts(heads: Sequence[dict[str, Any]], body: bytes) -> Iterator[bytes]:
    """The token ids of each request of a group, cut from the bytes behind it."""
    start = 0
    for head in heads:
        end = start + head["num_prompt"] * array.array(ID_TYPE).itemsize
        yield body[start:end]
        start = end


def encode_error(error: errors.ServiceError) -> dict[str, Any]:
    """An error as an object."""
    return {"kind": type(error).__name__, **vars(error)}


def decode_error(head: dict[str, Any]) -> errors.ServiceError:
    """The error that ``encode_error`` was given."""
    kind: type[errors.ServiceError] = getattr(errors, head["kind"])
    needed = {name: head[name] for name in ("retry_after_s",) if name in head}
    error = kind(head["message"], **needed)
    error.__dict__.update({name: head[name] for name in head if name != "kind"})
    return error


_CARD_FIELDS = (
    "max_model_tokens", "dtype", "backend", "not_fused", "num_slots", "device", "load_s",
    "bits_per_byte",
)  # fmt: skip


def encode_card(card: ModelCard) -> dict[str, Any]:
    """A card as an object that names its tokenizer."""
    return {
        "checkpoint": dataclasses.asdict(card.checkpoint),
        "tokenizer": card.tokenizer.fingerprint,
        **{name: getattr(card, name) for name in _CARD_FIELDS},
    }


def decode_card(head: dict[str, Any], tokenizer: Tokenizer) -> ModelCard:
    """The card that ``encode_card`` was given."""
    return ModelCard(
        checkpoint=Checkpoint(**head["checkpoint"]),
        tokenizer=tokenizer,
        **{name: head[name] for name in _CARD_FIELDS},
    )


def encode_tokenizer(tokenizer: Tokenizer) -> tuple[dict[str, Any], bytes]:
    """A tokenizer as an object and the library's own text."""
    head = {
        "fingerprint": tokenizer.fingerprint,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_ids": list(tokenizer.eos_token_ids),
        "chat_template": tokenizer.chat_template,
        "kept": tokenizer.kept,
        "generation": tokenizer.generation,
    }
    return head, tokenizer.backend.to_str().encode()


def decode_tokenizer(head: dict[str, Any], body: bytes) -> Tokenizer:
    """The tokenizer that ``encode_tokenizer`` was given."""
    return Tokenizer(
        Backend.from_str(body.decode()),
        bos_token_id=head["bos_token_id"],
        eos_token_ids=head["eos_token_ids"],
        chat_template=head["chat_template"],
        kept=head["kept"],
        generation=head["generation"],
    )
