"""Text as token ids in memory-mapped files, encoded once and kept.

The cache goes by what decides its content: the text's hash, the tokenizer's fingerprint, and a
version of how text is encoded. Not here: the encoding itself (``trainer.data.tokenizing``), and
which tokens make a batch (``trainer.data.token_windows``, ``trainer.data.batches``).
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress

from lm.text.tokenizer import Tokenizer
from trainer.data.corpora.split import Split, num_bytes
from trainer.data.tokenizing import encode_documents, separator_id

TokenArray = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]

LAYOUT_VERSION = 3
"""To be raised with every change of ``trainer.data.tokenizing`` that changes ids, or of the
files."""
_BAR_FROM_CHARACTERS = 4_000_000
"""Encoding less takes no time that anybody would watch."""
_TRAIN, _VALIDATION, _META = "train.bin", "validation.bin", "meta.json"


@dataclasses.dataclass(frozen=True)
class TokenSource:
    """One source, encoded."""

    name: str
    train: TokenArray
    """Token ids of the training documents, [num_train_tokens]; read-only, on disk."""
    validation: TokenArray
    """Token ids of the held-out documents, [num_validation_tokens]."""
    train_bytes: int
    """UTF-8 bytes of the training text."""
    validation_bytes: int
    """UTF-8 bytes of the held-out text: all of its tokens but the first are targets."""


def encode_split(
    name: str,
    split: Split,
    tokenizer: Tokenizer,
    cache_dir: Path,
    *,
    console: Console | None = None,
) -> TokenSource:
    """Encode a source, or open what an earlier run with equal text and tokenizer left.

    Args:
        name: what the source is called.
        split: its text.
        tokenizer: must name an end-of-text token.
        cache_dir: one subdirectory an encoding; made if missing.
        console: where a slow encoding shows its progress; ``None`` shows none.

    Raises ``ValueError`` if the tokenizer has no end-of-text token.
    """
    separator = separator_id(tokenizer)
    directory = cache_dir / _cache_key(split, tokenizer, separator)
    wanted = {
        "dtype": _dtype(tokenizer).name,
        "bytes": {_TRAIN: num_bytes(split.train), _VALIDATION: num_bytes(split.validation)},
    }
    source = _open(name, directory, wanted)
    if source is None:
        _write(name, split, tokenizer, separator, directory, console)
        source = _open(name, directory, wanted)
        assert source is not None, directory
    return source


def bytes_of_tokens(tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """Bytes of text that each token id stands for, [vocab_size]; special tokens none."""
    lengths = (len(tokenizer.bytes_of(token_id)) for token_id in range(tokenizer.num_ids))
    return np.fromiter(lengths, dtype=np.int64, count=tokenizer.num_ids)


def check_fits(
    sources: Iterable[TokenSource], tokenizer: Tokenizer, *, length: int, vocab_size: int
) -> None:
    """Raise ``ValueError`` unless every source fills a sequence and the model has every id."""
    if tokenizer.num_ids > vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.num_ids} ids, model.vocab_size is {vocab_size}"
        )
    for source in sources:
        if len(source.train) <= length:
            raise ValueError(
                f"source {source.name!r}: {len(source.train)} training tokens do not fill one "
                f"sequence of {length}"
            )
        if len(source.validation) < 2:
            raise ValueError(f"source {source.name!r}: no validation tokens")


def _cache_key(split: Split, tokenizer: Tokenizer, separator: int) -> str:
    parts = (LAYOUT_VERSION, tokenizer.fingerprint, separator, split.sha256)
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:32]


def _dtype(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.dtype(np.uint16 if tokenizer.num_ids <= 1 << 16 else np.uint32)


def _open(name: str, directory: Path, wanted: Mapping[str, Any]) -> TokenSource | None:
    """What a complete cache entry holds; ``None`` if it is absent, damaged or of another text."""
    try:
        meta: dict[str, Any] = json.loads((directory / _META).read_text("utf-8"))
        sums = {file: _checksum(directory / file) for file in (_TRAIN, _VALIDATION)}
        if meta != {**wanted, "tokens": meta["tokens"], "crc32": sums}:
            return None
        train, validation = (
            np.memmap(
                directory / file, dtype=meta["dtype"], mode="r", shape=(meta["tokens"][file],)
            )
            for file in (_TRAIN, _VALIDATION)
        )
        sizes = meta["bytes"]
        return TokenSource(name, train, validation, sizes[_TRAIN], sizes[_VALIDATION])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _checksum(path: Path) -> int:
    """CRC-32 of a file: one flipped bit is a token that no text has."""
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _write(
    name: str,
    split: Split,
    tokenizer: Tokenizer,
    separator: int,
    directory: Path,
    console: Console | None,
) -> None:
    """Make a cache entry, visible by one rename."""
    tmp = directory.with_name(f".tmp-{directory.name}-{os.getpid()}")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    num_characters = sum(map(len, split.train + split.validation))
    is_slow = console is not None and num_characters >= _BAR_FROM_CHARACTERS
    try:
        with Progress(console=console, transient=True, disable=not is_slow) as progress:
            task = progress.add_task(f"encoding {name}", total=num_characters)
            _fill(tmp, split, tokenizer, separator, lambda n: progress.advance(task, n))
        shutil.rmtree(directory, ignore_errors=True)  # a damaged one, or it would have opened
        with contextlib.suppress(OSError):  # another run was faster; what it made is the same
            tmp.rename(directory)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def _fill(
    directory: Path,
    split: Split,
    tokenizer: Tokenizer,
    separator: int,
    advance: Callable[[int], object],
) -> None:
    """Write both parts, then what is needed to read them."""
    dtype = _dtype(tokenizer)
    parts = {_TRAIN: split.train, _VALIDATION: split.validation}
    tokens = {}
    for file, documents in parts.items():
        ids = encode_documents(documents, tokenizer, separator, advance)
        tokens[file] = _append_all(directory / file, ids, dtype)
    sizes = {file: num_bytes(documents) for file, documents in parts.items()}
    sums = {file: _checksum(directory / file) for file in parts}
    meta = {"dtype": dtype.name, "tokens": tokens, "bytes": sizes, "crc32": sums}
    (directory / _META).write_text(json.dumps(meta, indent=2) + "\n", "utf-8")


def _append_all(path: Path, chunks: Iterable[Sequence[int]], dtype: np.dtype[Any]) -> int:
    """Write ids one chunk after another; returns how many there are."""
    count = 0
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(np.asarray(chunk, dtype=dtype).tobytes())
            count += len(chunk)
    return count
