"""Attention of tiles, interpreted, against each token over all it may see, the obvious way."""

import pytest
import torch
from flat_oracle import rows_of
from torch import Tensor

pytest.importorskip("triton", reason="the kernels are written in Triton")

from service.engine.gpu.flat.prefill_attention import ProgramShape, TileAttention
from service.engine.gpu.kernels.launch import Launch
from service.engine.gpu.layout import Bucket, FlatChunk, lay_out

Case = list[tuple[int, int, int]]
"""(slot, start, rows) of each chunk."""


def obvious(query: Tensor, key: Tensor, value: Tensor, position: int) -> Tensor:
    """Query [Hq, D] over the slot's key and value [Hkv, T, D], up to the position."""
    group = query.shape[0] // key.shape[0]
    mixed = torch.empty_like(query)
    for head in range(query.shape[0]):
        seen = slice(0, position + 1)
        scores = key[head // group, seen] @ query[head] / query.shape[-1] ** 0.5
        mixed[head] = scores.softmax(0) @ value[head // group, seen]
    return mixed


def check(
    case: Case,
    bucket: Bucket,
    head_dim: int = 32,
    heads: int = 3,
    shared: int = 1,
    dtype: torch.dtype = torch.float32,
    shape: ProgramShape | None = None,
) -> None:
    torch.manual_seed(0)
    layout = lay_out([FlatChunk(s, start, [1] * n, 0) for s, start, n in case], bucket)
    rows, tiles = rows_of(layout, [0] * 4)
    key, value = (torch.full((4, shared, 256, head_dim), torch.nan, dtype=dtype) for _ in range(2))
    for slot, start, count in case:
        for cached in (key, value):
            cached[slot, :, : start + count] = torch.randn(shared, start + count, head_dim)
    qkv = torch.randn(bucket.rows, (heads + 2 * shared) * head_dim).to(dtype)
    out = torch.full((bucket.rows, heads * head_dim), 7.0, dtype=dtype)
    attention = TileAttention(rows, tiles, bucket.tile_rows, heads, key.shape, shape)
    attention.compute(qkv, key, value, out, Launch(dependent=False))
    expected = torch.full_like(out, 7.0)
    for row, slot in enumerate(layout.slots):
        if slot >= 0:
            query = qkv[row, : heads * head_dim].view(heads, head_dim).float()
            position = int(layout.positions[row])
            mixed = obvious(query, key[slot].float(), value[slot].float(), position)
            expected[row] = mixed.flatten().to(dtype)
    tolerance = 2e-6 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("head_dim", [32, 48, 64, 128])
@pytest.mark.parametrize(("heads", "shared"), [(2, 2), (3, 1), (8, 2)])
@pytest.mark.parametrize("tile_rows", [16, 64])
def test_all_shapes_of_heads(head_dim: int, heads: int, shared: int, tile_rows: int) -> None:
    case = [(2, 0, 17), (0, 61, 9)]
    check(case, Bucket(32, tile_rows, 4), head_dim, heads, shared)


@pytest.mark.parametrize("tile_rows", [16, 64])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 63, 64, 65])
def test_odd_lengths_from_the_start_and_continued(length: int, tile_rows: int) -> None:
    check([(1, 0, length)], Bucket(66, tile_rows, 2))
    check([(3, 64, length)], Bucket(66, tile_rows, 2))


@pytest.mark.parametrize("width", [2, 4, 8])
def test_guesses_of_several_streams(width: int) -> None:
    starts = (0, 31, 126, 256 - width)
    check([(slot, starts[slot], width) for slot in (3, 0, 2, 1)], Bucket(40, 16, 40))


def test_numbers_of_half_the_width() -> None:
    """In float16: the interpreter of Triton 3.6 multiplies bfloat16 as the integers it holds."""
    check([(1, 0, 33), (2, 100, 20)], Bucket(64, 16, 64), dtype=torch.float16)


@pytest.mark.parametrize("shape", [(16, 16, 4, 2), (32, 128, 4, 3), (128, 32, 8, 2)])
def test_any_shape_of_program(shape: tuple[int, int, int, int]) -> None:
    case = [(1, 0, 37), (2, 150, 21)]
    check(case, Bucket(64, 64, 64), shape=ProgramShape(*shape))


@pytest.mark.parametrize("splits", [2, 4])
@pytest.mark.parametrize("tile_rows", [16, 64])
def test_long_contexts_are_split(splits: int, tile_rows: int) -> None:
    """The first chunk crosses a border between splits, the second ends in the first of them."""
    case = [(2, 120, 20), (0, 3, 5), (1, 253, 3), (3, 0, 130)]
    shape = ProgramShape(16, 32, 4, 2, splits)
    check(case, Bucket(160, tile_rows, 4), shape=shape)


def test_a_split_step_can_be_computed_again() -> None:
    torch.manual_seed(0)
    bucket = Bucket(16, 16, 16)
    rows, tiles = rows_of(lay_out([FlatChunk(0, 120, [1] * 9, 0)], bucket), [0])
    qkv, key, value = torch.randn(16, 96), torch.randn(1, 1, 256, 32), torch.randn(1, 1, 256, 32)
    attention = TileAttention(rows, tiles, 16, 1, key.shape, ProgramShape(16, 32, 4, 2, 4))
    first, second = torch.zeros(2, 16, 32)
    attention.compute(qkv, key, value, first, Launch(dependent=False))
    attention.compute(qkv, key, value, second, Launch(dependent=False))
    assert first[:9].all()
    assert torch.equal(first, second)


def test_the_least_splits_that_fill_a_card() -> None:
    assert ProgramShape.of(64, 16, 3, max_tokens=8192).splits == 8
    assert ProgramShape.of(64, 16, 3, max_tokens=1024).splits == 1
    assert ProgramShape.of(512, 64, 3, max_tokens=8192).splits == 1
    assert [ProgramShape.of(512, 64, group, 256).rows for group in (1, 3)] == [64, 64]
    assert ProgramShape.of(16, 4, 1, 256).rows == 16


def test_no_tile_at_all() -> None:
    check([], Bucket(16, 16, 16))
