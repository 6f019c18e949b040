"""A text file of one's own: its documents, the last ones held out, or one with its tail held out.

Lines of ``<|endoftext|>`` alone stand between documents, as in TinyStories. Line ends become
``\\n`` unless the source keeps them.
"""

import dataclasses
import re
from pathlib import Path

from trainer.data.corpora.split import Split, num_bytes, split_tail
from trainer.data.tokenizer_training import END_OF_TEXT
from trainer.recipe.sections import SourceConfig

PREFIX = "file:"
_OTHER_FORMATS = {
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".json": "JSON",
    ".csv": "a table",
    ".tsv": "a table",
    ".parquet": "a table",
    ".arrow": "a table",
}
"""What these suffixes hold is no running text."""
FAR_OFF = 2.0
"""Times the wanted share, or parts of it, from which on documents are not kept whole."""
FEW_CHARACTERS = 1024
"""By which a short text may miss its share, so that it is cut at a line."""
_SEPARATOR = re.compile(rf"^{re.escape(END_OF_TEXT)}[ \t]*(?:\r?\n|\Z)", re.MULTILINE)


def read(source: SourceConfig) -> Split:
    """Split ``file:PATH`` between documents, else at a line or a character.

    Raises ``ValueError`` if the file is missing, empty, not UTF-8, of a format that is no text, or
    has nothing to hold out.
    """
    path = Path(source.corpus.removeprefix(PREFIX)).expanduser()
    if kind := _OTHER_FORMATS.get(path.suffix.lower()):
        raise ValueError(
            f"{path}: holds {kind}, and file: would train on it as text; write its texts to a .txt "
            f"file, with lines of {END_OF_TEXT} between them"
        )
    text = _read_text(path)
    changes = "\r" in text and not source.keep_line_ends
    if changes:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return dataclasses.replace(_split(path, text, source), changes_line_ends=changes)


def _split(path: Path, text: str, source: SourceConfig) -> Split:
    fraction, documents = source.validation_fraction, _documents(text)
    if len(documents) > 1:
        return _split_documents(path, documents, fraction)
    text = documents[0] if documents else text
    cut = _cut(text, 1.0 - fraction)
    if not text[:cut].strip() or not text[cut:].strip():
        raise ValueError(f"{path}: too short to hold out {fraction:.0%} of it")
    split = Split((text[:cut],), (text[cut:],), "")
    return dataclasses.replace(split, description=f"{path}, {_said_share(split)}")


def _split_documents(path: Path, documents: list[str], fraction: float) -> Split:
    """Between documents, or inside the one where whole documents are far from the fraction."""
    total = num_bytes(documents)
    split = split_tail(documents, fraction, "")
    if not fraction / FAR_OFF <= num_bytes(split.validation) / total <= fraction * FAR_OFF:
        split = _split_inside(documents, fraction * total)
    said = f"{path}, {len(documents):,} documents, {_said_share(split)}"
    return dataclasses.replace(split, description=said)


def _said_share(split: Split) -> str:
    share = num_bytes(split.validation) / (num_bytes(split.train) + num_bytes(split.validation))
    return f"the last {share:.0%} held out" if share >= 0.01 else f"the last {share:.2%} held out"


def _split_inside(documents: list[str], wanted: float) -> Split:
    """Hold out so many bytes from the end, a part of one document among them."""
    first, held_out = len(documents), 0
    while first > 1 and held_out + num_bytes(documents[first - 1 : first]) <= wanted:
        first -= 1
        held_out += num_bytes(documents[first : first + 1])
    divided = documents[first - 1]
    cut = _cut(divided, 1.0 - (wanted - held_out) / num_bytes([divided]))
    train = (*documents[: first - 1], divided[:cut])
    held = (divided[cut:], *documents[first:])
    return Split(tuple(filter(str.strip, train)), tuple(filter(str.strip, held)), "")


def _documents(text: str) -> list[str]:
    """Texts between separators, without those that are blank."""
    return [document for document in _SEPARATOR.split(text) if document.strip()]


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


def _cut(text: str, fraction: float) -> int:
    """Where the held-out tail begins: at a line if both parts have text then, else anywhere.

    Blank space at either end is no text to divide.
    """
    begin, end = len(text) - len(text.lstrip()), len(text.rstrip())
    middle = begin + int((end - begin) * fraction)
    line = text.rfind("\n", begin, middle) + 1
    # A first line longer than the training share: everything after it is held out instead.
    line = line or text.find("\n", begin, end) + 1
    wanted, held_out = end - middle, end - line
    is_near = wanted / FAR_OFF <= held_out <= wanted * FAR_OFF
    if begin < line < end and (is_near or abs(held_out - wanted) <= FEW_CHARACTERS):
        return line
    cut = max(begin + 1, min(middle, end - 1))
    return cut + 1 if text[cut - 1 : cut + 1] == "\r\n" else cut
