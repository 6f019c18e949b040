"""A text file of one's own: one document, its tail held out."""

from pathlib import Path

from trainer.config import SourceConfig
from trainer.corpus.split import Split

PREFIX = "file:"


def read(source: SourceConfig) -> Split:
    """Split ``file:PATH`` at the line boundary nearest before its held-out tail.

    Raises ``ValueError`` if the file is missing, empty, not UTF-8, or has no line to hold out.
    """
    path = Path(source.corpus.removeprefix(PREFIX)).expanduser()
    text = _read_text(path)
    cut = _line_start(text, 1.0 - source.validation_fraction)
    if not text[:cut].strip() or not text[cut:].strip():
        raise ValueError(f"{path}: too short to hold out {source.validation_fraction:.0%} of it")
    description = f"{path}, the last {source.validation_fraction:.0%} held out"
    return Split((text[:cut],), (text[cut:],), description)


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"corpus {path}: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"corpus {path}: not UTF-8 text (byte 0x{content[error.start]:02x} at {error.start})"
        ) from error


def _line_start(text: str, fraction: float) -> int:
    """Where the line begins that a fraction of the characters leads into."""
    cut = int(len(text) * fraction)
    start = text.rfind("\n", 0, cut) + 1
    # A first line longer than the training share: everything after it is held out instead.
    return start or text.find("\n") + 1
