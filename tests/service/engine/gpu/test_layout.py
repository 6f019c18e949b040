"""Chunks as flat rows and tiles: properties over all plans, and the obvious loop beside them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.gpu.layout import (
    BUCKETS,
    Bucket,
    FlatChunk,
    bucket_for,
    lay_out,
    split,
)

SMALL = Bucket(rows=40, tile_rows=16, chunks=6)


@st.composite
def chunk_lists(draw: st.DrawFn, most_rows: int = 40, most_chunks: int = 6) -> list[FlatChunk]:
    chunks: list[FlatChunk] = []
    room = most_rows
    for slot in range(draw(st.integers(0, most_chunks))):
        if room == 0:
            break
        length = draw(st.integers(1, room))
        room -= length
        first = 1000 * slot
        chunks.append(
            FlatChunk(
                slot=slot,
                start=draw(st.integers(0, 8000)),
                token_ids=range(first, first + length),
                num_logits=draw(st.integers(0, length)),
            )
        )
    return chunks


def tokens_of(chunk: FlatChunk) -> list[tuple[int, int, int]]:
    """(slot, position, token) of each row."""
    return [(chunk.slot, chunk.start + index, token) for index, token in enumerate(chunk.token_ids)]


@given(chunk_lists())
def test_every_token_appears_once_and_in_order(chunks: list[FlatChunk]) -> None:
    layout = lay_out(chunks, SMALL)
    expected = [token for chunk in chunks for token in tokens_of(chunk)]
    rows = list(zip(layout.slots, layout.positions, layout.token_ids, strict=True))
    assert rows == expected + [(-1, 0, 0)] * (SMALL.rows - len(expected))


@given(chunk_lists(), st.sampled_from([1, 3, 16, 64]))
def test_tiles_cover_each_chunk_exactly_and_cross_none(
    chunks: list[FlatChunk], tile_rows: int
) -> None:
    bucket = Bucket(SMALL.rows, tile_rows, SMALL.chunks)
    expected, row = [], 0
    for chunk in chunks:
        end = row + len(chunk.token_ids)
        expected += [(first, min(tile_rows, end - first)) for first in range(row, end, tile_rows)]
        row = end
    tiles = [tuple(tile) for tile in lay_out(chunks, bucket).tiles.tolist()]
    assert len(tiles) == bucket.tiles
    assert tiles == expected + [(0, 0)] * (bucket.tiles - len(expected))


@given(chunk_lists())
def test_the_last_rows_of_each_chunk_yield(chunks: list[FlatChunk]) -> None:
    expected, row = [], 0
    for chunk in chunks:
        row += len(chunk.token_ids)
        expected += range(row - chunk.num_logits, row)
    assert lay_out(chunks, SMALL).yielding.tolist() == expected


@given(chunk_lists(most_rows=300, most_chunks=20))
def test_a_split_loses_nothing_and_fits(chunks: list[FlatChunk]) -> None:
    steps = split(chunks, SMALL)
    rows, yielding = [], []
    for step in steps:
        layout = lay_out(step, SMALL)
        assert step
        taken = [token for chunk in step for token in tokens_of(chunk)]
        rows += taken
        yielding += [taken[row] for row in layout.yielding]
    assert rows == [token for chunk in chunks for token in tokens_of(chunk)]
    assert yielding == [
        token
        for chunk in chunks
        for token in tokens_of(chunk)[len(chunk.token_ids) - chunk.num_logits :]
    ]
    least = -(-sum(len(chunk.token_ids) for chunk in chunks) // SMALL.rows)
    assert len(steps) >= least


def test_the_worst_plan_of_a_bucket_fills_its_tiles() -> None:
    for bucket in BUCKETS:
        long = bucket.rows - bucket.chunks + 1
        chunks = [FlatChunk(0, 0, [1] * long, 1)]
        chunks += [FlatChunk(slot, 0, [1], 1) for slot in range(1, bucket.chunks)]
        layout = lay_out(chunks, bucket)
        assert (layout.slots >= 0).all()
        assert (layout.tiles[:, 1] > 0).sum() >= bucket.tiles - 1


def test_the_smallest_bucket_is_taken() -> None:
    assert bucket_for(1, 1).rows == 16
    assert bucket_for(17, 1).rows == 32
    assert bucket_for(64, 64).rows == 64
    assert bucket_for(2048, 3).rows == 2048
    with pytest.raises(ValueError, match="2049 rows in 1 chunks"):
        bucket_for(2049, 1)
    with pytest.raises(ValueError, match="65 rows in 65 chunks"):
        bucket_for(65, 65)


@pytest.mark.parametrize(
    "chunk", [FlatChunk(0, 0, [], 0), FlatChunk(0, 0, [1], 2), FlatChunk(0, 0, [1], -1)]
)
def test_impossible_chunks_are_refused(chunk: FlatChunk) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        lay_out([chunk], SMALL)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        lay_out([FlatChunk(0, 0, [1] * 41, 0)], SMALL)
