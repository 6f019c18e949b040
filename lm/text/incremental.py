"""Streams text from token ids, holding back half a character.

Where ``lm.text.token_bytes`` knows the bytes of each token (byte-level, SentencePiece, WordPiece
and Unigram vocabularies), they go through an incremental UTF-8 decoder: constant time a token,
defined for every sequence of ids. Others are decoded again over a short window, as the library's
``DecodeStream`` does; that one raises on broken byte-fallback tokens, which a model may always
choose.
"""

import codecs
from typing import Protocol

from lm.text.tokenizer import Tokenizer

REPLACEMENT_CHARACTER = "\N{REPLACEMENT CHARACTER}"


class IncrementalDecoder(Protocol):
    """Text of a growing sequence of ids; all pieces joined are the whole text."""

    def push(self, token_id: int) -> str:
        """Text that this token completes; empty while a character is unfinished."""
        ...

    def finish(self) -> str:
        """What is still held back, broken bytes as U+FFFD."""
        ...


def incremental_decoder(tokenizer: Tokenizer, *, at_start: bool = True) -> IncrementalDecoder:
    """A fresh decoder for one stream.

    ``at_start`` is whether its first token begins a text; one that goes on with a text keeps the
    space that it begins with.
    """
    if tokenizer.spelling.is_exact:
        return ByteDecoder(tokenizer, at_start=at_start)
    return LibraryDecoder(tokenizer)


class ByteDecoder:
    """Joins the bytes of tokens into characters.

    Equal to decoding all ids at once, also for ids that no text encodes to, but for the number of
    U+FFFD that broken byte-fallback tokens become.
    """

    def __init__(self, tokenizer: Tokenizer, *, at_start: bool = True) -> None:
        self._tokenizer = tokenizer
        self._at_start = at_start
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """See ``IncrementalDecoder``."""
        data = self._tokenizer.bytes_of(token_id)
        if self._at_start:
            first = self._tokenizer.first_bytes_of(token_id)
            if data or first:  # a "##" alone is text at the beginning only
                data, self._at_start = first, False
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
