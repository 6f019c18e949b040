"""From a safetensors file to the tensors that are served, one piece after the other.

A file is read once, in pieces of a few megabytes that are hashed and handed on before the next one:
neither the file nor its tensors lie in memory whole beside what is made of them, and no call holds
the interpreter's lock for long, so that streams go on in between.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

PIECE_BYTES = 1 << 22
"""Some milliseconds of reading and hashing; less would ask for the interpreter's lock too often."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""By their names in the file; the format is at github.com/huggingface/safetensors."""
_LENGTH_BYTES = 8
MOST_HEADER_BYTES = 16 << 20
"""Of the JSON in front of the tensors: some hundred bytes each, parsed in one call."""


class Piece(NamedTuple):
    """Some rows of one tensor; valid until the next piece is asked for."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    first_row: int
    rows: Tensor
    """[n, ...]; a scalar is one row."""


def read_weights(
    file: BinaryIO,
    size: int,
    *,
    dtype: torch.dtype,
    on_read: Callable[[memoryview], object] | None = None,
) -> Iterator[Piece]:
    """Tensors of a file of so many bytes, in its order; ``on_read`` is given every byte once.

    Raises ``ValueError`` if it is no safetensors of floating numbers, or of another size.
    """

    def fill(room: memoryview) -> memoryview:
        if file.readinto(room) != len(room):  # type: ignore[attr-defined]
            raise ValueError("malformed safetensors: it ends too early")
        if on_read is not None:
            on_read(room)
        return room

    length = int.from_bytes(fill(memoryview(bytearray(_LENGTH_BYTES))), "little")
    position = _LENGTH_BYTES + length
    if position > size or length > MOST_HEADER_BYTES:
        raise ValueError(f"malformed safetensors: a header of {length} bytes")
    header = bytes(fill(memoryview(bytearray(length))))
    buffer = bytearray(min(size, PIECE_BYTES))  # one for all: fresh memory is slow to touch
    for name, stored, shape in _entries(header, size - position):
        yield from _pieces(fill, buffer, name, stored, shape, dtype)
    if file.read(1):
        raise ValueError("malformed safetensors: it goes on after its end")


def whole(
    pieces: Iterable[Piece], *, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Tensors by name, in memory of their own."""
    tensors: dict[str, Tensor] = {}
    for piece in pieces:
        if piece.name not in tensors:
            tensors[piece.name] = torch.empty(piece.shape, dtype=dtype, device=device)
        tensor = tensors[piece.name]
        rows = tensor if tensor.ndim else tensor[None]
        rows[piece.first_row : piece.first_row + len(piece.rows)].copy_(piece.rows)
    return tensors


def _entries(header: bytes, size: int) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    """Name, dtype and shape of each tensor as they follow one another in so many bytes."""
    entries, position = [], 0
    try:
        values: dict[str, Any] = json.loads(header)
        values.pop("__metadata__", None)
        for name, entry in sorted(values.items(), key=lambda item: item[1]["data_offsets"]):
            stored, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            is_shape = all(isinstance(length, int) and length >= 0 for length in shape)
            if (
                not is_shape
                or begin != position
                or end - begin != math.prod(shape) * stored.itemsize
            ):
                raise ValueError(f"{entry} does not fit the file")
            entries.append((name, stored, shape))
            position = end
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"malformed safetensors header: {error!r}") from error
    if position != size:
        raise ValueError(f"malformed safetensors: {size} bytes of tensors, not {position}")
    return entries


def _pieces(
    fill: Callable[[memoryview], memoryview],
    buffer: bytearray,
    name: str,
    stored: torch.dtype,
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> Iterator[Piece]:
    """One tensor in pieces of whole rows."""
    num_rows, *width = shape or (1,)
    row_bytes = math.prod(width) * stored.itemsize
    if not num_rows * row_bytes:
        yield Piece(name, shape, 0, torch.empty(num_rows, *width, dtype=dtype))
        return
    if row_bytes > len(buffer):
        buffer = bytearray(row_bytes)
    at_once = len(buffer) // row_bytes
    for first in range(0, num_rows, at_once):
        count = min(at_once, num_rows - first)
        fill(memoryview(buffer)[: count * row_bytes])
        flat = torch.frombuffer(buffer, dtype=stored, count=count * row_bytes // stored.itemsize)
        yield Piece(name, shape, first, flat.view(count, *width).to(dtype))
