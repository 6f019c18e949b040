"""Names of runs: one rule for whoever makes a run, and what of a volume a reader takes for one."""

import re
from pathlib import Path

MAX_CHARACTERS = 100
MAX_BYTES = 255
"""Of a name in a directory, on every filesystem in use."""
RULE = (
    f"letters, digits, '_', '-' and '.', {MAX_CHARACTERS} at most, does not begin with a dot "
    "and is not a step's name"
)
_MADE = re.compile(r"(?!step-\d{8,}\Z)[\w-][\w.-]*")
"""Not what a step is called: a volume is then not taken for a run, nor a run for a volume."""
_OTHERS = re.compile(r"[^\w.-]+")


def is_run_name(name: str) -> bool:
    """Whether a run may be made by this name: ``[\\w.-]``, letters of any script among them."""
    return (
        _MADE.fullmatch(name) is not None
        and len(name) <= MAX_CHARACTERS
        and len(name.encode()) <= MAX_BYTES
    )


def why_no_run(name: str) -> str | None:
    """Why a reader takes no directory of this name for a run; ``None`` if it does.

    Readers take more than is made: runs may be there already, by names of other characters.
    """
    if not name or name.startswith("."):
        return "a run's name does not begin with a dot"
    if "/" in name:
        return "a run is a directory of the volume itself"
    if not name.isprintable():  # as line breaks and bytes that are no UTF-8 are not
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
    if why_no_run(name) is None and (volume / name).is_dir():
        return volume / name
    raise ValueError(f"run '{shown(name[:MAX_BYTES])}' is no name of a run, which has {RULE}")


def as_run_name(text: str) -> str:
    """The nearest name of a run to any text, such as that of a directory."""
    if is_run_name(text):
        return text
    name = _OTHERS.sub("-", text).strip(".-")[:MAX_CHARACTERS]
    while len(name.encode()) > MAX_BYTES:
        name = name[:-1]
    return next((one for one in (name, f"run-{name}") if name and is_run_name(one)), "run")
