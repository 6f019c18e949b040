import io
import json
import random
from typing import Any

import pytest
import safetensors.torch
import torch

from lm import safetensors_file as weights
from lm.safetensors_file import read_weights, whole


def some_tensors(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "matrix": torch.randn(37, 11, generator=generator).to(dtype),
        "vector": torch.randn(5, generator=generator).to(dtype),
        "scalar": torch.randn((), generator=generator).to(dtype),
        "empty": torch.zeros(0, 3, dtype=dtype),
    }


def read(content: bytes, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    pieces = read_weights(io.BytesIO(content), len(content), dtype=dtype)
    return whole(pieces, dtype=dtype, device=torch.device("cpu"))


@pytest.mark.parametrize("stored", weights.DTYPES.values())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("piece_bytes", [8, 100, 1 << 20])
def test_every_number_is_the_librarys(
    monkeypatch: pytest.MonkeyPatch, stored: torch.dtype, dtype: torch.dtype, piece_bytes: int
) -> None:
    monkeypatch.setattr(weights, "PIECE_BYTES", piece_bytes)
    content = safetensors.torch.save(some_tensors(stored), metadata={"format": "pt"})
    expected = safetensors.torch.load(content)
    loaded = read(content, dtype)
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert loaded[name].dtype is dtype
        assert loaded[name].shape == tensor.shape
        assert torch.equal(loaded[name], tensor.to(dtype)), name


def test_pieces_are_small_whole_rows_and_every_byte_is_shown_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights, "PIECE_BYTES", 3 * 11 * 4)
    content = safetensors.torch.save(some_tensors(torch.float32))
    seen = bytearray()
    rows = [
        (piece.name, piece.first_row, len(piece.rows))
        for piece in read_weights(
            io.BytesIO(content), len(content), dtype=torch.float32, on_read=seen.extend
        )
    ]
    assert [row for row in rows if row[0] == "matrix"] == [
        ("matrix", first, min(3, 37 - first)) for first in range(0, 37, 3)
    ]
    assert bytes(seen) == content


def with_header(header: Any) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(16)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        bytes(100),
        with_header([]),
        with_header({"a": 3}),
        with_header({"a": {"dtype": "F32", "shape": [4]}}),
        with_header({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}}),
        with_header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 12]}}),
        with_header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}),
        with_header({"a": {"dtype": "F32", "shape": ["4"], "data_offsets": [0, 16]}}),
        with_header({"a": {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]}}),
        with_header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0]}}),
        with_header({"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 0]}}),
    ],
    ids=range(13),
)
def test_what_is_no_safetensors_is_said(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"malformed|does not fit|Expecting|codec|unpack"):
        read(content)


def test_random_damage_is_a_value_error_or_other_numbers() -> None:
    content = safetensors.torch.save(some_tensors(torch.float32))
    chance = random.Random(7)
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged) - 1000)] = chance.randrange(256)
        cut = bytes(damaged[: chance.randint(0, len(damaged))])
        try:
            loaded = read(cut)
        except ValueError:
            continue
        assert all(isinstance(tensor, torch.Tensor) for tensor in loaded.values())
