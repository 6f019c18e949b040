"""Names of runs: one rule for whoever makes a run, and what of a volume a reader takes for one."""

import re
from pathlib import Path

from lm.volume.manifest import step_number

MAX_CHARACTERS = 100
MAX_BYTES = 255
"""Of a name in a directory, on every filesystem in use."""
RULE = (
    f"letters, digits, '_', '-' and '.', not beginning with a dot, at most {MAX_CHARACTERS} of them"
)
_MADE = re.compile(r"[\w-][\w.-]*")
_OTHERS = re.compile(r"[^\w.-]+")


def is_run_name(name: str) -> bool:
    """Whether a run may be made by this name: ``[\\w.-]``, letters of any script among them."""
    return (
        _MADE.fullmatch(name) is not None
        and len(name) <= MAX_CHARACTERS
        and len(name.encode()) <= MAX_BYTES
        and step_number(name) is None
    )


def why_no_run(name: str) -> str | None:
    """Why a reader takes no directory of this name for a run; ``None`` if it does.

    Readers take more than is made: runs may be there already, by names of other characters.
    """
    if not name or name.startswith("."):
        return "a run's name does not begin with a dot"
    if "/" in name or not name.isprintable():  # as line breaks and bytes that are no UTF-8 are not
        return "its name has characters that cannot be printed"
    if len(name.encode()) > MAX_BYTES:
        return f"a run's name has at most {MAX_BYTES} bytes"
    return None


def shown(name: str) -> str:
    """A name as it can be written anywhere: what cannot be printed is escaped."""
    if name.isprintable():
        return name
    return name.encode("unicode_escape", "backslashreplace").decode("ascii")


def run_directory(volume: Path, name: str) -> Path:
    """Where a run of this name is written; raises ``ValueError`` unless it may be made.

    A run that is there already goes on by its name, if readers take it for one.
    """
    if is_run_name(name):
        return volume / name
    is_there = why_no_run(name) is None and step_number(name) is None and (volume / name).is_dir()
    if not is_there:
        raise ValueError(f"run {shown(name[:MAX_BYTES])!r} is no name of a run: {RULE}")
    return volume / name


def as_run_name(text: str) -> str:
    """The nearest name of a run to any text, such as that of a directory."""
    name = _OTHERS.sub("-", text).strip(".-")[:MAX_CHARACTERS]
    while len(name.encode()) > MAX_BYTES:
        name = name[:-1]
    return name if is_run_name(name) else f"run-{name}" if is_run_name(f"run-{name}") else "run"
