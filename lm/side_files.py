"""The small files of a model directory, by name: from a directory, or from bytes that were hashed.

Whoever reads a step must see what its manifest lists and nothing else, in the very bytes that were
compared with it; a directory from elsewhere is read as it lies there.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from lm.plain_file import most_bytes, open_followed, read_bounded

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class SideFiles:
    """Files by name; ``where`` is for errors and for libraries that read by themselves."""

    def __init__(self, where: Path, read: Callable[[str], bytes | None]) -> None:
        self.where = where
        self.read = read
        """Bytes of a file, ``None`` where there is none; raises ``ValueError`` naming it."""

    @classmethod
    def of_directory(cls, directory: Path) -> Self:
        """Whatever lies in a directory, read when it is asked for."""
        return cls(directory, lambda name: _read(directory / name))

    @classmethod
    def given(cls, where: Path, contents: Mapping[str, bytes]) -> Self:
        """These alone, whatever lies beside them."""
        return cls(where, contents.get)

    def text(self, name: str) -> str | None:
        """A file's text; ``None`` where there is none. Raises ``ValueError`` naming the file."""
        content = self.read(name)
        try:
            return None if content is None else content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.where / name}: {error}") from error

    def json_object(self, name: str) -> dict[str, Any]:
        """Content of a JSON object, empty where there is no file.

        Raises ``ValueError`` naming the file if it cannot be read or is something else.
        """
        text = self.text(name)
        if text is None:
            return {}
        try:
            content = json.loads(text)
            if _SURROGATE.search(text):  # JSON can name half of a pair, no text can hold it
                json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise ValueError(f"{self.where / name}: {half!r} is half of a character") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.where / name}: not JSON: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{self.where / name}: not a JSON object")
        return content


def _read(path: Path) -> bytes | None:
    try:
        with open_followed(path) as file:
            size = min(os.fstat(file.fileno()).st_size, most_bytes(path.name))
            return read_bounded(file, size, path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
