"""What kind of model a name on the command line names."""

from pathlib import Path

from lm.huggingface import hub
from lm.huggingface.directory import fetch, read_directory
from lm.huggingface.model import Foreign
from lm.volume import as_run_name
from trainer.convert.importing.checkpoint import SUFFIXES, Described, read_checkpoint
from trainer.convert.importing.gguf import SUFFIX as GGUF
from trainer.convert.importing.gguf import read_gguf


def carries_config(source: str) -> bool:
    """Whether a source says itself which model and tokenizer it holds; ``torch.save`` does not."""
    path = Path(source).expanduser()
    return source.startswith(hub.PREFIX) or path.suffix not in SUFFIXES or path.is_dir()


def read_source(source: str, described: Described | None = None) -> Foreign:
    """Read ``hub:OWNER/NAME``, a model directory, a ``.gguf`` file or one of ``torch.save``.

    ``described`` says what a ``torch.save`` file holds. Raises ``ValueError`` in one line for
    what cannot be had, read or computed.
    """
    path = Path(source).expanduser()
    if not carries_config(source):
        if described is None:
            raise ValueError(f"{source}: carries no config; give the --recipe that it is of")
        return read_checkpoint(path, described)
    if source.startswith(hub.PREFIX):
        return read_directory(fetch(source))
    if path.suffix == GGUF:
        return read_gguf(path)
    if not path.is_dir():
        raise ValueError(
            f"{source}: neither a directory, {hub.PREFIX}OWNER/NAME nor a file that ends in "
            f"{', '.join((GGUF, *SUFFIXES))}"
        )
    return read_directory(path)


def default_run(source: str) -> str:
    """Name of the run that a source goes to unless it is given one: its own last part's nearest."""
    path = Path(source.removeprefix(hub.PREFIX)).expanduser().resolve()
    return as_run_name(path.stem if path.suffix in {GGUF, *SUFFIXES} else path.name)
