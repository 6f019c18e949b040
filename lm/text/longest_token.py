"""How much text one token can stand for, so that a text is known to be too long unread.

It holds for tokenizers that spell a text byte for byte, as nearly all of today's do. One that drops
parts of a text, or makes one unknown token of any word, has no such bound.
"""

import dataclasses
import json
import math
from typing import Any, Self

from tokenizers import Tokenizer as Backend
from tokenizers.pre_tokenizers import ByteLevel

from lm.text.token_bytes import alphabet_bytes

_COMPOSED = 4
"""Bytes that Unicode's canonical composition makes one of, at most: three Hangul letters of three
bytes each become one of three; and some room."""
MOST_BYTES_KNOWN = 200
"""Of 256: some of a byte-level vocabulary's never came in what it was learnt from."""
_CUTTING = frozenset({"ByteLevel", "Digits", "Metaspace"})
"""Pre-tokenizers that lose nothing."""


@dataclasses.dataclass(frozen=True)
class TokenBytes:
    """What the tokens of one tokenizer can stand for."""

    most: int | None
    """Bytes of UTF-8 that one token of a text stands for, at most; ``None`` is not known."""
    dropped: bytes = b""
    """Bytes that no token has: they vanish from texts."""

    @classmethod
    def of(cls, backend: Backend) -> Self:
        """Those of a tokenizer."""
        content = json.loads(backend.to_str())
        model, added = content["model"], content["added_tokens"]
        factor, dropped = _factor(content["normalizer"]), _dropped(model)
        if factor is None or dropped is None or not _keeps(content["pre_tokenizer"]):
            return cls(None)
        if dropped and content["normalizer"] is not None:
            return cls(None)  # it might make such bytes of others
        if any(token["lstrip"] or token["rstrip"] for token in added):
            return cls(None)  # they take any white space beside them with them
        # byte-level BPE writes each byte as one character; others write text as it is
        longest = max(map(_num_bytes if model.get("byte_fallback") else len, model["vocab"]))
        longest = max(longest, 1, *(_num_bytes(token["content"]) for token in added))
        return cls(factor * longest, dropped)

    def least_tokens(self, text: str) -> int:
        """So many tokens a text has at least; not a token of it is looked for."""
        if self.most is None:
            return 0
        kept = text.encode(errors="replace").translate(None, self.dropped)
        return -(-len(kept) // self.most)


def _num_bytes(text: str) -> int:
    return len(text.encode())


def _dropped(model: dict[str, Any]) -> bytes | None:
    """Bytes without a token; ``None`` if what is unknown becomes one token however long it is."""
    if model.get("type") != "BPE" or (model.get("unk_token") and not model.get("byte_fallback")):
        return None
    if model.get("byte_fallback"):
        return b"" if all(f"<0x{byte:02X}>" in model["vocab"] for byte in range(256)) else None
    if len(model["vocab"].keys() & set(ByteLevel.alphabet())) < MOST_BYTES_KNOWN:
        return None  # not an alphabet of bytes
    return b"".join(
        byte
        for one in ByteLevel.alphabet()
        if one not in model["vocab"]
        for byte in [alphabet_bytes(one)]
    )


def _keeps(part: dict[str, Any] | None) -> bool:
    """Whether a pre-tokenizer cuts a text without losing any of it."""
    match part:
        case None:
            return True
        case {"type": "Sequence", "pretokenizers": parts}:
            return all(map(_keeps, parts))
        case {"type": "Split", "behavior": behavior}:
            return bool(behavior != "Removed")
        case _:
            return part["type"] in _CUTTING


def _factor(part: dict[str, Any] | None) -> int | None:
    """How many bytes of a text a normalizer makes one of, at most; ``None`` is not known."""
    match part:
        case None | {"type": "Prepend"}:
            return 1
        case {"type": "NFC"}:
            return _COMPOSED
        case {"type": "Replace", "pattern": {"String": old}, "content": new}:
            return 1 if _num_bytes(old) <= _num_bytes(new) else None
        case {"type": "Sequence", "normalizers": parts}:
            factors = [_factor(one) for one in parts]
            known = [factor for factor in factors if factor is not None]
            return math.prod(known) if len(known) == len(factors) else None
        case _:
            return None
