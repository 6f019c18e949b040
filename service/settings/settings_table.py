"""Where the value of each setting comes from; ``python -m service settings`` prints the table.

It takes the options and reads the environment that the service itself would, so that it answers
what would hold. Keys are never shown.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from service.settings.command_line import read_options, read_secrets, read_settings
from service.settings.kubernetes import is_service_address
from service.settings.names import is_secret, variable_of
from service.settings.schema import Settings

HIDDEN = "(hidden)"
COLUMNS = ("name", "type", "default", "value", "source", "meaning")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every setting; raises ``ValueError`` in one line where the service would not start."""
    rows = [COLUMNS, *rows_of(arguments)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    return 0


def rows_of(arguments: Sequence[str] | None) -> Iterator[tuple[str, ...]]:
    """Name, type, default, value, source and meaning of every setting, as text."""
    settings = read_settings(arguments)
    options = read_options(arguments)
    files = read_secrets(options)
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        yield (
            name,
            type_of(name),
            _shown(field.default),
            HIDDEN if is_secret(name) and value is not None else _shown(value),
            source_of(name, options, files),
            str(field.description),
        )


def source_of(name: str, options: dict[str, str], files: dict[str, Path]) -> str:
    """What gave a setting its value: an option, a variable, a file, or nothing."""
    variable = variable_of(name)
    if name in options:
        return f"--{name.replace('_', '-')}"
    if variable in os.environ and not is_service_address(os.environ[variable]):
        return variable
    return str(files[name]) if name in files else "default"


def type_of(name: str) -> str:
    """The type of a setting for people: ``integer or none``, ``console|json``."""
    text = str(Settings.model_fields[name].annotation)
    for pattern, plain in (
        (r"tuple\[str, \.\.\.\]", "texts"),
        (r"typing\.Optional\[(.+)\]", r"\1 | None"),
        (r"<class '([\w.]+)'>", r"\1"),
        (r"typing\.Literal\[(.+?)\]", lambda found: found[1].replace("'", "").replace(", ", "|")),
        (r"[\w.]*Keyring", "secret"),
        (r"[\w.]*Path", "path"),
        (r" \| None", " or none"),
    ):
        text = re.sub(pattern, plain, text)
    return text


def _shown(value: object) -> str:
    if value in (None, ()):
        return "none"
    return ",".join(value) if isinstance(value, tuple) else str(value)
