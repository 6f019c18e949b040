"""Streams text from token ids, holding back half a character.

Byte-level vocabularies (GPT-2's alphabet, as every recipe here trains them) go through an
incremental UTF-8 decoder: constant time a token, defined for every sequence of ids. Other
vocabularies are decoded again over a short window, as the library's ``DecodeStream`` does; that
one raises on broken byte-fallback tokens, which a model may always choose.
"""

import codecs
import functools
from typing import Protocol

from tokenizers import decoders

from lm.tokenizer import Tokenizer

REPLACEMENT_CHARACTER = "\N{REPLACEMENT CHARACTER}"


class IncrementalDecoder(Protocol):
    """Text of a growing sequence of ids; all pieces joined are the whole text."""

    def push(self, token_id: int) -> str:
        """Text that this token completes; empty while a character is unfinished."""
        ...

    def finish(self) -> str:
        """What is still held back, broken bytes as U+FFFD."""
        ...


def incremental_decoder(tokenizer: Tokenizer) -> IncrementalDecoder:
    """A fresh decoder for one stream."""
    if isinstance(tokenizer.backend.decoder, decoders.ByteLevel):
        return ByteLevelDecoder(tokenizer)
    return LibraryDecoder(tokenizer)


class ByteLevelDecoder:
    """Joins the bytes of byte-level tokens into characters.

    Equal to decoding all ids at once, also for ids that no text encodes to.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """See ``IncrementalDecoder``."""
        known = self._tokenizer.bytes_of
        data = known.get(token_id)
        if data is None:
            data = known[token_id] = token_bytes(self._tokenizer, token_id)
        return self._utf8.decode(data)

    def finish(self) -> str:
        """See ``IncrementalDecoder``."""
        return self._utf8.decode(b"", final=True)


class LibraryDecoder:
    """Decodes the last piece's tokens together with those held back; the piece's text goes off.

    The last piece gives the context that decides about spaces. Equal to decoding all ids at once
    unless byte-fallback tokens spell broken UTF-8: then what was whole before stays whole.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._num_sent = 0

    def push(self, token_id: int) -> str:
        """See ``IncrementalDecoder``."""
        self._window.append(token_id)
        text = self.finish()
        if not text or text.endswith(REPLACEMENT_CHARACTER):
            return ""
        del self._window[: self._num_sent]
        self._num_sent = len(self._window)
        return text

    def finish(self) -> str:
        """See ``IncrementalDecoder``."""
        sent = self._tokenizer.decode(self._window[: self._num_sent])
        return self._tokenizer.decode(self._window)[len(sent) :]


def token_bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    """Bytes that a byte-level token stands for; none for special tokens and unknown ids."""
    if token_id in tokenizer.special_token_ids:
        return b""
    token = tokenizer.backend.id_to_token(token_id)
    if token is None:
        return b""
    alphabet = byte_alphabet()
    if all(character in alphabet for character in token):
        return bytes(alphabet[character] for character in token)
    return token.encode()  # an added token, kept as it is written


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
