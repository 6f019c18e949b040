"""Keys of clients and of the administrator: known by their hashes alone.

A key is hashed as it is read, so that neither the settings nor anything made from them holds it.
"""

import hashlib
import hmac
import re
from collections.abc import Collection, Iterable
from typing import Self

SHORTEST_KEY = 8
"""Characters; shorter ones are guessed."""


class Keyring:
    """One or more keys, of which it has the SHA-256 digests."""

    def __init__(self, digests: Collection[bytes]) -> None:
        self._digests = tuple(sorted(set(digests)))

    @classmethod
    def of(cls, keys: Iterable[str]) -> Self:
        """Hash these; raises a ``ValueError`` that shows none if none is there or one is short."""
        unhashed = list(keys)
        if not unhashed:
            raise ValueError("it holds no key; leave it unset to ask for none")
        if min(map(len, unhashed)) < SHORTEST_KEY:
            raise ValueError(f"a key has fewer than {SHORTEST_KEY} characters")
        if not all(key.isascii() and key.isprintable() for key in unhashed):
            raise ValueError("a key has characters that a header does not carry")
        return cls([_digest(key) for key in unhashed])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Keys between commas or white space."""
        return cls.of(key for key in re.split(r"[,\s]+", text) if key)

    def __or__(self, other: "Keyring | None") -> "Keyring":
        """The keys of both."""
        return self if other is None else Keyring([*self._digests, *other._digests])

    def __len__(self) -> int:
        return len(self._digests)

    def owner(self, key: str) -> str | None:
        """First digits of a key's hash, by which it may be spoken of; ``None`` if it is not here.

        Compares with all of them and takes as long whatever is wrong, so that time does not tell.
        """
        given = _digest(key)
        matches = [hmac.compare_digest(known, given) for known in self._digests]
        return given.hex()[:8] if any(matches) else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
