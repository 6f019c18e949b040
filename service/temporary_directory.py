"""A directory for as long as the service runs."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def scratch_directory(reason: str) -> Iterator[Path]:
    """One under the system's temporary directory; raises ``ValueError`` naming who needs it."""
    try:
        directory = tempfile.TemporaryDirectory(prefix="nestling-")
    except OSError as error:
        raise ValueError(
            f"{reason} needs a writable temporary directory; set TMPDIR ({error.strerror})"
        ) from error
    with directory as name:
        yield Path(name)
