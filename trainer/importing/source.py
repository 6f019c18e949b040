"""What kind of model a name on the command line names."""

from pathlib import Path

from trainer import hub
from trainer.importing.directory import FILES, read_directory
from trainer.importing.foreign import Foreign
from trainer.importing.gguf import SUFFIX, read_gguf


def read_source(source: str) -> Foreign:
    """Read ``hub:OWNER/NAME``, a ``.gguf`` file or a model directory.

    Raises ``ValueError`` in one line for what cannot be had, read or computed.
    """
    if source.startswith(hub.PREFIX):
        return read_directory(hub.download(source, FILES))
    path = Path(source).expanduser()
    if path.suffix == SUFFIX:
        return read_gguf(path)
    if not path.is_dir():
        raise ValueError(
            f"{source}: neither a directory, a {SUFFIX} file nor {hub.PREFIX}OWNER/NAME"
        )
    return read_directory(path)


def default_run(source: str) -> str:
    """Name of the run that a source goes to unless it is given one: its own last part."""
    path = Path(source.removeprefix(hub.PREFIX)).expanduser().resolve()
    return path.stem if path.suffix == SUFFIX else path.name
