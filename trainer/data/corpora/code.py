"""The source of Python's own standard library: real code that is on every machine.

Its content follows the interpreter's version; the token cache and the manifest go by the text's
hash, so that two versions are never taken for one. Tests, installed packages and files generated
for the machine are left out.
"""

import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from trainer.data.corpora.split import Split, split_tail
from trainer.recipe.sections import SourceConfig

_SKIPPED_DIRECTORIES = frozenset(
    {"__pycache__", "dist-packages", "idle_test", "site-packages", "test", "tests"}
)
_MACHINE_SPECIFIC = "_sysconfigdata"


def read(source: SourceConfig) -> Split:
    """Modules of the standard library in order of their paths, the last ones held out.

    Raises ``ValueError`` if the interpreter comes without its source.
    """
    library = Path(sysconfig.get_path("stdlib"))
    documents = [path.read_text("utf-8") for path in source_files(library)]
    if not documents:
        raise ValueError(f"no Python source in {library}")
    description = (
        f"{len(documents)} modules of Python {platform.python_version()}'s standard library, "
        f"the last {source.validation_fraction:.0%} held out"
    )
    return split_tail(documents, source.validation_fraction, description)


def source_files(library: Path) -> Iterator[Path]:
    """Modules that are the same on every machine with this library, sorted by path."""
    for path in sorted(library.rglob("*.py"), key=lambda path: path.relative_to(library).parts):
        parts = path.relative_to(library).parts
        if not _SKIPPED_DIRECTORIES.isdisjoint(parts) or path.name.startswith(_MACHINE_SPECIFIC):
            continue
        if not path.is_symlink() and path.stat().st_size and _is_utf8(path):
            yield path


def _is_utf8(path: Path) -> bool:
    try:
        path.read_text("utf-8")
    except UnicodeDecodeError:
        return False
    return True
