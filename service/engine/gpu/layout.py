"""Lays chunks of several sequences out as the flat rows and tiles of a step of a fixed size.

Chunks lie one behind the other without gaps; the rows behind the last one are dead. All of it is
arithmetic on arrays: no loop over tokens. Shapes: N rows, M tiles.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A size of step."""

    rows: int
    """N."""
    tile_rows: int
    """The most rows of a tile."""
    chunks: int
    """The most chunks that it holds."""

    @property
    def tiles(self) -> int:
        """M: what the worst split of the rows into chunks needs.

        A chunk of n rows has 1 + ⌊(n - 1) / tile_rows⌋ tiles.
        """
        return self.chunks + (self.rows - self.chunks) // self.tile_rows


BUCKETS = tuple(
    Bucket(rows, tile_rows=16 if rows <= 64 else 64, chunks=min(rows, 64))
    for rows in (16, 32, 64, 128, 256, 512, 1024, 2048)
)
"""Up to 64 rows every chunk may be of one row; a larger step holds 64 chunks. A step of a thousand
rows would launch programs for tiles that are never there, were it to hold more."""


@dataclasses.dataclass(frozen=True)
class FlatChunk:
    """Consecutive tokens of one sequence."""

    slot: int
    start: int
    """Position of the first token."""
    token_ids: Sequence[int] | Ints
    """At least one; -1 is the token that was drawn last for the slot."""
    num_logits: int
    """How many of its last rows yield logits."""

    def cut(self, count: int) -> tuple["FlatChunk", "FlatChunk"]:
        """The first so many tokens and the others; rows that yield stay the chunk's last ones."""
        rest = len(self.token_ids) - count
        later = min(self.num_logits, rest)
        return (
            FlatChunk(self.slot, self.start, self.token_ids[:count], self.num_logits - later),
            FlatChunk(self.slot, self.start + count, self.token_ids[count:], later),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class FlatLayout:
    """A step as arrays of int32."""

    token_ids: Ints
    """[N]; 0 in dead rows."""
    positions: Ints
    """[N]; 0 in dead rows."""
    slots: Ints
    """[N]; -1 in dead rows."""
    tiles: Ints
    """[M, 2]: first row and number of rows; no rows behind the last tile."""
    yielding: Ints
    """[rows that yield], in the order of the chunks."""


def bucket_for(num_rows: int, num_chunks: int, buckets: Sequence[Bucket] = BUCKETS) -> Bucket:
    """The smallest bucket that holds them; ``ValueError`` if none does (see ``split``)."""
    for bucket in buckets:
        if num_rows <= bucket.rows and num_chunks <= bucket.chunks:
            return bucket
    raise ValueError(f"no bucket holds {num_rows} rows in {num_chunks} chunks")


def split(chunks: Iterable[FlatChunk], largest: Bucket) -> list[list[FlatChunk]]:
    """Steps, one after the other, that each fit the bucket; a chunk may go on in the next step."""
    steps: list[list[FlatChunk]] = []
    free_rows = free_chunks = 0
    for whole in chunks:
        rest: FlatChunk | None = whole
        while rest is not None:
            if not free_rows or not free_chunks:
                steps.append([])
                free_rows, free_chunks = largest.rows, largest.chunks
            chunk, rest = rest, None
            if len(chunk.token_ids) > free_rows:
                chunk, rest = chunk.cut(free_rows)
            steps[-1].append(chunk)
            free_rows -= len(chunk.token_ids)
            free_chunks -= 1
    return steps


def lay_out(chunks: Sequence[FlatChunk], bucket: Bucket) -> FlatLayout:
    """Arrays of a step.

    Raises ``ValueError`` if the bucket does not hold the chunks, or one is empty or yields more
    rows than it has.
    """
    lengths = np.array([len(chunk.token_ids) for chunk in chunks], dtype=np.int32)
    num_logits = np.array([chunk.num_logits for chunk in chunks], dtype=np.int32)
    total = int(lengths.sum())
    if total > bucket.rows or len(chunks) > bucket.chunks:
        raise ValueError(f"{total} rows in {len(chunks)} chunks do not fit {bucket}")
    if np.any(lengths < 1) or np.any(num_logits < 0) or np.any(num_logits > lengths):
        raise ValueError("a chunk has at least one token and yields at most one row a token")
    ends = np.cumsum(lengths, dtype=np.int32)
    token_ids, positions, slots = np.zeros((3, bucket.rows), np.int32)
    tiles = np.zeros((bucket.tiles, 2), np.int32)
    slots[total:] = -1
    if chunks:
        token_ids[:total] = np.concatenate([chunk.token_ids for chunk in chunks])
        starts = np.array([chunk.start for chunk in chunks], dtype=np.int32)
        positions[:total] = np.repeat(starts, lengths) + _counting(lengths)
        slots[:total] = np.repeat(np.array([c.slot for c in chunks], dtype=np.int32), lengths)
    _fill_tiles(tiles, lengths, ends, bucket.tile_rows)
    yielding = np.repeat(ends - num_logits, num_logits) + _counting(num_logits)
    return FlatLayout(token_ids, positions, slots, tiles, yielding)


def _fill_tiles(tiles: Ints, lengths: Ints, ends: Ints, tile_rows: int) -> None:
    """Write the tiles of chunks of these lengths that end at these rows into zeros [M, 2]."""
    counts = -(-lengths // tile_rows)
    total = int(counts.sum())
    assert total <= len(tiles), "the bucket counts its worst case"
    first = np.repeat(ends - lengths, counts) + _counting(counts) * tile_rows
    tiles[:total, 0] = first
    tiles[:total, 1] = np.minimum(tile_rows, np.repeat(ends, counts) - first)


def _counting(lengths: Ints) -> Ints:
    """0, 1, … below each length, one after the other."""
    starts = np.cumsum(lengths, dtype=np.int32) - lengths
    return np.arange(int(lengths.sum()), dtype=np.int32) - np.repeat(starts, lengths)
