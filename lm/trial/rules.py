"""What a tokenizer may do to a text: how much longer it makes it, and how long it takes.

What its parts can do is read from them, since a rule may wait for a word that no probe has; what
cannot be read is measured on probes.
"""

import base64
import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

from lm.text.tokenizer import Tokenizer

MAX_GROWTH = 256
"""Bytes that normalizers, or decoders, may make of one. T5's make at most 132 by these rules."""
MAX_TOKEN_BYTES = 1 << 16
"""Of one token's text; public vocabularies have up to some hundred."""
MAX_TOKENS_PER_BYTE = 12
"""Unicode's longest decomposition makes 33 bytes of 3."""
MAX_AROUND = 64
"""Tokens that are put around a text."""
MAX_PROBE_S = 2.0
"""Of one core for one probe; usual tokenizers take some milliseconds."""
RUN = 1024
"""Characters of a probe that repeats one: what cuts texts by rules of its own can take long."""
_PROSE = (
    "The ferry left at seven, before the fog had lifted. Anna counted 40 houses, 3 wells and 1 "
    'piano: "You will be cold," said the captain. It\'s a wall\u2014stone upon stone.\n\n\t'
    "na\u00efve caf\u00e9 \u65e5\u672c\u8a9e \U0001f600 \ufdfa e\u0301 \u2581 <s> {{ x }} "
    "[INST] <|im_start|> \x00\x7f\u200d\n"
)


class Exceeds(ValueError):
    """A tokenizer or template does more than it may; the message says what."""


def check(tokenizer: Tokenizer) -> None:
    """Raise ``Exceeds`` if the tokenizer does more than it may to texts."""
    backend = tokenizer.backend
    for name, part in (("normalizer", backend.normalizer), ("decoder", backend.decoder)):
        if part is not None and _growth(_config(part)) > MAX_GROWTH:
            raise Exceeds(f"its {name} can make a text more than {MAX_GROWTH} times as long")
    longest = max((len(token.encode()) for token in backend.get_vocab()), default=0)
    if longest > MAX_TOKEN_BYTES:
        raise Exceeds(f"a token has {longest:,} bytes, there may be {MAX_TOKEN_BYTES:,}")
    for probe in _probes():
        _check_on(tokenizer, probe)


def _check_on(tokenizer: Tokenizer, probe: str) -> None:
    size, started = len(probe.encode()), time.process_time()
    plain = tokenizer.encode(probe, add_special_tokens=False)
    if len(plain) > MAX_TOKENS_PER_BYTE * size + MAX_AROUND:
        raise Exceeds(f"it makes {len(plain):,} tokens of {size:,} bytes")
    around = len(tokenizer.encode(probe)) - len(plain)
    if around > MAX_AROUND:
        raise Exceeds(f"it puts {around:,} tokens around a text, there may be {MAX_AROUND}")
    tokenizer.decode(plain)
    if time.process_time() - started > MAX_PROBE_S:
        raise Exceeds(f"it takes more than {MAX_PROBE_S:g} s for {size:,} bytes")


def _probes() -> Iterator[str]:
    yield ""
    yield _PROSE
    yield _PROSE * 8
    for character in "a 0.\n-\u00e9\u65e5":
        yield character * RUN
        yield f"{character * 64}!"


def _config(part: Any) -> Mapping[str, Any]:
    state: Mapping[str, Any] = json.loads(part.__getstate__())
    return state


def _growth(part: Mapping[str, Any]) -> float:
    """Bytes that a part makes of one, at most; those that follow each other are multiplied."""
    for inside in ("normalizers", "decoders"):
        if inside in part:
            return math.prod(_growth(one) for one in part[inside])
    match part:
        case {"type": "Replace", "pattern": {"String": searched}, "content": content}:
            made, gone = len(content.encode()), len(searched.encode())
            return max(1.0, made / gone) if gone else 1.0 + made
        case {"type": "Replace", "content": content}:
            return 1.0 + len(content.encode())
        case {"type": "Prepend", "prepend": content}:
            return 1.0 + len(content.encode()) / RUN  # once a text
        case {"type": "Precompiled", "precompiled_charsmap": charsmap}:
            return _longest_of(charsmap)
        case {"type": "WordPiece" | "BPEDecoder" | "CTC", **said}:
            texts = [one for one in said.values() if isinstance(one, str)]
            return 1.0 + max((len(one.encode()) for one in texts), default=0)
    return 1.0


def _longest_of(charsmap: str) -> float:
    """Bytes of the longest text that SentencePiece's map replaces something by.

    The map is the length of a trie in four bytes, the trie, and texts that each end in a zero.
    """
    content = base64.b64decode(charsmap)
    texts = content[4 + int.from_bytes(content[:4], "little") :]
    return float(max((len(text) for text in texts.split(b"\0")), default=1) or 1)
