"""From the bytes of a safetensors file to the tensors that are served.

The library copies a whole file in one call that holds the interpreter's lock: half a gigabyte
stalls every stream for some tenths of a second. Here each call copies a piece, straight into the
dtype and onto the device to serve from, so that streams go on in between.
"""

import json
import math
from typing import Any

import torch
from torch import Tensor

PIECE_BYTES = 1 << 20
"""About a tenth of a millisecond of copying."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""By their names in the file; the format is at github.com/huggingface/safetensors."""
_LENGTH_BYTES = 8


def served_weights(
    content: bytes, *, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Tensors by name, in memory of their own.

    Raises ``ValueError`` if the bytes are no safetensors of floating numbers.
    """
    view = memoryview(content)
    start = _LENGTH_BYTES + int.from_bytes(view[:_LENGTH_BYTES], "little")
    try:
        header = json.loads(content[_LENGTH_BYTES:start])
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {
            name: _tensor(view[start:], entry, dtype, device) for name, entry in entries.items()
        }
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"malformed safetensors header: {error!r}") from error


def _tensor(
    data: memoryview, entry: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """One tensor of the file, piece by piece."""
    stored, shape, (begin, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    numel = math.prod(shape)
    if not 0 <= begin <= end <= len(data) or end - begin != numel * stored.itemsize:
        raise ValueError(f"{entry} does not fit the file")
    flat = torch.empty(numel, dtype=dtype, device=device)
    step = PIECE_BYTES // stored.itemsize
    for first in range(0, numel, step):
        last = min(first + step, numel)
        piece = data[begin + first * stored.itemsize : begin + last * stored.itemsize]
        flat[first:last].copy_(torch.frombuffer(bytearray(piece), dtype=stored))
    return flat.view(shape)
