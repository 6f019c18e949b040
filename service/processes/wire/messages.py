"""What the engine's process and an HTTP process tell each other, as plain data for ``frames``."""

import array
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer as Backend

from lm.sampling import SamplingParams
from lm.text.tokenizer import Tokenizer
from service import errors
from service.engine.request import GenerationRequest
from service.engine.served_model import Checkpoint, ModelCard
from service.processes.wire.frames import ID_TYPE

_REQUEST_FIELDS = tuple(
    field
    for field in dataclasses.fields(GenerationRequest)
    if field.name not in {"prompt_ids", "sampling", "prepared"}
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
