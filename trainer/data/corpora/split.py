"""Text that is trained on and text that is held out, as documents.

A document is what an end-of-text token follows: a play, a source file, a problem.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True)
class Split:
    """Documents to train on and documents held out."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    description: str
    """One line for the log: what it is and where it is from."""
    changes_line_ends: bool = False
    """Whether the source has others than these texts."""

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the text and of how it is split, in hexadecimal; computed once."""
        digest = hashlib.sha256()
        for documents in (self.train, self.validation):
            digest.update(f" {len(documents)}".encode())
            for document in documents:
                content = document.encode()
                digest.update(f" {len(content)} ".encode() + content)
        return digest.hexdigest()


def num_bytes(documents: Iterable[str]) -> int:
    """UTF-8 bytes of all documents."""
    return sum(len(document.encode()) for document in documents)


def split_tail(documents: Sequence[str], fraction: float, description: str) -> Split:
    """Hold out the last documents that together have at least ``fraction`` of the bytes.

    The first document is never held out; one document alone is held out of nothing.
    """
    wanted = fraction * num_bytes(documents)
    first = len(documents)
    held_out = 0
    while first > 1 and held_out < wanted:
        first -= 1
        held_out += len(documents[first].encode())
    return Split(tuple(documents[:first]), tuple(documents[first:]), description)


def shorten(split: Split, max_bytes: int) -> Split:
    """Cut both parts from their ends, in proportion, so that together they fit ``max_bytes``."""
    train, validation = num_bytes(split.train), num_bytes(split.validation)
    share = max_bytes / max(train + validation, 1)
    if share >= 1.0:
        return split
    return dataclasses.replace(
        split,
        train=_head(split.train, int(train * share)),
        validation=_head(split.validation, int(validation * share)),
    )


def _head(documents: Sequence[str], limit: int) -> tuple[str, ...]:
    """First documents within a limit in bytes, the last one cut after a line, if it can be."""
    kept: list[str] = []
    for document in documents:
        content = document.encode()
        if len(content) > limit:
            line = content.rfind(b"\n", 0, limit) + 1
            end = line if line or kept else limit  # text in one line is better than none
            kept.append(content[:end].decode(errors="ignore"))
            break
        kept.append(document)
        limit -= len(content)
    return tuple(document for document in kept if document)
