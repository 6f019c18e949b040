"""The bytes of a tokenizer's tokens, and the fewest tokens that spell a text."""

import functools
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from llguidance import LLTokenizer

LONGEST = 16
"""Bytes of the longest tokens that a spelling uses; longer ones are runs of spaces, mostly."""


class Spellings:
    """What the tokens of one tokenizer spell, special tokens and ends aside."""

    def __init__(self, trie: "LLTokenizer", end_ids: Collection[int] = ()) -> None:
        """``end_ids`` spell nothing: an answer ends at each, be it ordinary text otherwise."""
        self.bytes_of = [
            b""
            if token_id in end_ids or trie.is_special_token(token_id)
            else trie.decode_bytes([token_id])
            for token_id in range(trie.vocab_size)
        ]
        self._ids: dict[bytes, int] = {}
        for token_id, spelt in enumerate(self.bytes_of):
            if 0 < len(spelt) <= LONGEST:
                self._ids.setdefault(spelt, token_id)
        self._longest = max(map(len, self._ids), default=0)
        singles = sorted((spelt[0], i) for spelt, i in self._ids.items() if len(spelt) == 1)
        self.id_of_byte = dict(singles)
        self._bytes = np.array([byte for byte, _ in singles], dtype=np.uint8)
        ids = np.array([token_id for _, token_id in singles], dtype=np.intp)
        self._places, self._bits = ids >> 3, (1 << (ids & 7)).astype(np.uint8)
        self.fewest = functools.lru_cache(256)(self._fewest)
        """``_fewest``, whose texts come again."""

    def has(self, token_id: int) -> bool:
        """Whether the tokenizer has such a token: a model may have rows for more."""
        return token_id < len(self.bytes_of)

    def allowed_bytes(self, bitmask: bytes) -> bytes:
        """The bytes, ascending, whose own tokens a mask [V / 8] lets through."""
        mask = np.frombuffer(bitmask, dtype=np.uint8)
        allowed: bytes = self._bytes[(mask[self._places] & self._bits) != 0].tobytes()
        return allowed

    def _fewest(self, text: bytes) -> tuple[int, ...] | None:
        """The fewest tokens that spell a text; ``None`` if none do."""
        ids, longest = self._ids, self._longest
        counts = [0]
        lasts: list[tuple[int, int]] = [(0, 0)]
        """Of each beginning of the text, where its last token begins, and that token."""
        unreachable = len(text) + 1
        for end in range(1, len(text) + 1):
            fewest, last = unreachable, (0, 0)
            for start in range(max(0, end - longest), end):
                if counts[start] + 1 < fewest:
                    token_id = ids.get(text[start:end])
                    if token_id is not None:
                        fewest, last = counts[start] + 1, (start, token_id)
            counts.append(fewest)
            lasts.append(last)
        if counts[-1] == unreachable:
            return None
        token_ids: list[int] = []
        place = len(text)
        while place:
            place, token_id = lasts[place]
            token_ids.append(token_id)
        return tuple(reversed(token_ids))
