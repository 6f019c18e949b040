"""Opens and reads files that others put there: regular ones, of bounded size, never waiting.

A pipe nobody writes to would hang a reader for ever, a device never ends, a sparse file states any
size. Whatever is read of a volume or a model directory is opened here.
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 1 << 20
MIB = 1 << 20
MOST_BYTES = {
    "manifest.json": MIB,
    "config.json": MIB,
    "generation_config.json": MIB,
    "tokenizer.json": 256 * MIB,
    "tokenizer_config.json": 16 * MIB,
    "special_tokens_map.json": 16 * MIB,
    "added_tokens.json": 16 * MIB,
    "chat_template.jinja": MIB,
}
"""What a file of a kind may have; the largest vocabularies in use take some 30 MB."""
MOST_BYTES_ELSE = 256 * MIB


class NotPlain(OSError):
    """A file is no regular one, or larger than its kind may be; it has no ``errno``."""


def most_bytes(name: str) -> int:
    """Bytes that a file may have by its name; weights have no such bound."""
    return MOST_BYTES.get(name, MOST_BYTES_ELSE)


def open_plain(path: Path) -> BinaryIO:
    """Open a regular file that is no link: where a link leads is not in the volume's hand.

    Raises ``NotPlain`` for a pipe, a socket, a directory or a device, else ``OSError``.
    """
    return _open(path, os.O_NOFOLLOW)


def open_followed(path: Path) -> BinaryIO:
    """The same through links, as in the Hub's cache, which is made of them."""
    return _open(path, 0)


def read_bounded(file: BinaryIO, most: int, path: Path) -> bytes:
    """Read to the end; raises ``NotPlain`` if that is more than ``most`` bytes away."""
    content = file.read(most + 1)
    if len(content) > most:
        raise NotPlain(f"{path.name}: more than {most:,} bytes")
    return content


def sha256_of(file: BinaryIO, size: int) -> str:
    """SHA-256, in hexadecimal, of the first ``size`` bytes and one more if there is one."""
    digest, left = hashlib.sha256(), size + 1
    while left and (piece := file.read(min(left, CHUNK_BYTES))):
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest()


def plain(path: str, flags: int) -> int:
    """Descriptor of a regular file: an ``opener`` of ``open``, for writing, too.

    Raises ``NotPlain`` for anything else: a pipe would have its writer wait for a reader.
    """
    # O_NONBLOCK: opening a pipe returns, so that it can be refused.
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotPlain(f"{Path(path).name}: not a regular file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open(path: Path, flags: int) -> BinaryIO:
    return os.fdopen(plain(str(path), os.O_RDONLY | flags), "rb")
