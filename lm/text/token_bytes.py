"""The bytes that a token stands for, the one definition for every kind of vocabulary.

A vocabulary spells text in its own way: GPT-2's alphabet of bytes, SentencePiece's ``▁`` and
``<0x0A>``, WordPiece's ``##``. The tokenizer's decoder says which; its steps are applied here to
single tokens, so that the bytes of a sequence are those of its tokens one after another. Only
the first token of a text may be spelled otherwise: there the decoder takes a space away.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

from tokenizers import Tokenizer as Backend

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_CLEANED = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't")),
    *((" 'm", "'m"), (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
)
"""What WordPiece's clean-up of the ``tokenizers`` library replaces, in its order."""
_EXACT = {"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace", "WordPiece", "None"}


@dataclasses.dataclass(frozen=True)
class Spelling:
    """The steps of one decoder."""

    steps: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, backend: Backend) -> Self:
        """That of a tokenizer; without a decoder the library puts spaces between tokens."""
        decoder = json.loads(backend.to_str())["decoder"] or {"type": "None"}
        return cls(tuple(_flat(decoder)))

    @property
    def is_exact(self) -> bool:
        """Whether tokens one after another are what the library decodes them to."""
        kinds = [step["type"] for step in self.steps]
        if "ByteLevel" in kinds[:-1]:  # ``bytes_of`` ends there
            return False
        return all(
            kind in _EXACT and _is_plain(step, fused="Fuse" in kinds[:index])
            for index, (kind, step) in enumerate(zip(kinds, self.steps, strict=True))
        )

    def bytes_of(self, token: str, *, is_first: bool = False) -> bytes:
        """Bytes of a token, as the first one of a text or anywhere else."""
        fused = False
        for step in self.steps:
            match step["type"]:
                case "ByteLevel":
                    return alphabet_bytes(token)
                case "ByteFallback":
                    if spelled := _BYTE.fullmatch(token):
                        byte = int(spelled[1], 16)
                        if byte >= 0x80:  # part of a character, which no later step looks for
                            return bytes([byte])
                        token = chr(byte)
                case "Fuse":
                    fused = True
                case "Strip":
                    if is_first or not fused:
                        token = _without_first(token, step["content"], step["start"])
                case _:
                    token = _step(token, step, is_first=is_first)
        return token.encode(errors="replace")


@functools.cache
def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, inverted (openai/gpt-2, ``bytes_to_unicode``).

    Printable Latin-1 stands for itself; the other bytes take code points from 256 upwards in
    order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + rank): byte for rank, byte in enumerate(others)}


def _flat(decoder: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for one in decoder["decoders"] for step in _flat(one)]


def _is_plain(step: Mapping[str, Any], *, fused: bool) -> bool:
    """Whether a step does to each token the same whatever is around it.

    After ``Fuse`` the library applies a step to the whole text, where only what looks at a single
    character is the same for each token.
    """
    match step["type"]:
        case "Replace":
            searched = step["pattern"].get("String")
            return searched is not None and (not fused or len(searched) == 1)
        case "Strip":
            return step["stop"] == 0 and (not fused or step["start"] <= 1)
    return not fused


def alphabet_bytes(token: str) -> bytes:
    """Bytes that a token spells in the alphabet of bytes; text outside of it is UTF-8."""
    alphabet = byte_alphabet()
    if all(character in alphabet for character in token):
        return bytes(alphabet[character] for character in token)
    return token.encode()  # an added token, kept as it is written


def _step(token: str, step: Mapping[str, Any], *, is_first: bool) -> str:
    """A token after one of the steps that are a change of its text."""
    match step["type"]:
        case "Replace" if "String" in step["pattern"]:
            return token.replace(step["pattern"]["String"], step["content"])
        case "Metaspace":
            is_dropped = is_first and step.get("prepend_scheme", "always") != "never"
            return token.replace(step["replacement"], "" if is_dropped else " ")
        case "WordPiece":
            return _word_piece(token, step, is_first=is_first)
        case "BPEDecoder":
            return token.replace(step["suffix"], " ")
        case "None":
            return token if is_first else f" {token}"
    return token


def _word_piece(token: str, step: Mapping[str, Any], *, is_first: bool) -> str:
    if not is_first:
        is_inside = token.startswith(step["prefix"])
        token = token.removeprefix(step["prefix"]) if is_inside else f" {token}"
    if step.get("cleanup", True):
        for old, new in _CLEANED:
            token = token.replace(old, new)
    return token


def _without_first(token: str, character: str, count: int) -> str:
    for _ in range(count):
        token = token.removeprefix(character)
    return token
