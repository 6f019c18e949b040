"""A matcher that refuses what would make two items of an array equal."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.engine.structure.closing.spellings import Spellings
from service.engine.structure.schemas.reader import Reader
from service.engine.structure.schemas.unique import UNIQUE, Places

if TYPE_CHECKING:
    from llguidance import LLMatcher

NOTHING_LEFT = "whatever may follow makes an item of uniqueItems come again"


def has_unique_items(grammar: str) -> bool:
    """Whether items must differ somewhere in the answers of a grammar."""
    return f'"{UNIQUE}"' in grammar


def differing(matcher: "LLMatcher", grammar: str, spellings: Spellings) -> "Differing":
    """The matcher at the beginning of such a grammar."""
    schema = json.loads(grammar)["grammars"][0]["json_schema"]
    return Differing(matcher, Reader(Places(schema)), spellings)


class Differing:
    """What is used of the library's matcher, with the answer that was read so far.

    Masks of all tokens stay the library's: ``takes`` says which of them may follow.
    """

    def __init__(self, matcher: "LLMatcher", reader: Reader, spellings: Spellings) -> None:
        self._matcher = matcher
        self._reader = reader
        self._spellings = spellings
        self._is_refused = False
        self.compute_logit_bias = matcher.compute_logit_bias
        self.is_accepting = matcher.is_accepting
        self.is_stopped = matcher.is_stopped

    @property
    def is_within(self) -> bool:
        """Whether an array is not at its end whose items must differ."""
        return self._reader.is_within

    def takes(self, token_id: int) -> bool:
        """Whether no item comes again with a token that the library lets follow."""
        return self._after(token_id) is not None

    def _after(self, token_id: int) -> Reader | None:
        if not self._spellings.has(token_id):
            return None
        return self._reader.after(self._spellings.bytes_of[token_id])

    def deep_copy(self) -> "Differing":
        return Differing(self._matcher.deep_copy(), self._reader, self._spellings)

    def consume_token(self, token_id: int) -> bool:
        after = self._after(token_id)
        if after is None:
            self._is_refused = True
            return False
        self._reader = after
        return self._matcher.consume_token(token_id)

    def consume_tokens(self, token_ids: Sequence[int]) -> bool:
        return all(map(self.consume_token, token_ids))

    def validate_tokens(self, token_ids: Sequence[int]) -> int:
        """How many of the tokens may follow."""
        count = self._matcher.validate_tokens(list(token_ids))
        reader: Reader | None = self._reader
        for number, token_id in enumerate(token_ids[:count]):
            reader = reader.after(self._spellings.bytes_of[token_id]) if reader else None
            if reader is None:
                return number
        return count

    def compute_ff_bytes(self) -> bytes:
        """The bytes that must follow, as far as they may."""
        forced: bytes = self._matcher.compute_ff_bytes()
        if self._reader.after(forced) is None:
            return b""
        return forced

    def compute_bitmask(self) -> bytes:
        """The library's, without the tokens of one byte that may not follow."""
        mask: bytes = self._matcher.compute_bitmask()
        if not self.is_within:
            return mask
        changed = bytearray(mask)
        for byte in self._spellings.allowed_bytes(mask):
            if self._reader.after(bytes([byte])) is None:
                token_id = self._spellings.id_of_byte[byte]
                changed[token_id >> 3] &= ~(1 << (token_id & 7)) & 0xFF
        return bytes(changed)

    def is_error(self) -> bool:
        return self._is_refused or self._matcher.is_error()

    def get_error(self) -> str:
        return NOTHING_LEFT if self._is_refused else self._matcher.get_error()
