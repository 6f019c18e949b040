"""Files of the Hugging Face Hub, with one clear error for a machine that cannot reach it."""

from collections.abc import Iterable
from pathlib import Path

PREFIX = "hub:"


def download(source: str, patterns: Iterable[str]) -> Path:
    """Directory with the newest files of ``hub:OWNER/NAME`` that match, from the Hub or its cache.

    Raises ``ValueError`` if huggingface_hub is not installed, the name is malformed, or the
    files are neither cached nor to be had.
    """
    repository = source.removeprefix(PREFIX)
    if repository.count("/") != 1:
        raise ValueError(f"{source!r} is not of the form {PREFIX}OWNER/NAME")
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(f"{source}: needs huggingface-hub; run: pip install .[import]") from error
    try:
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=list(patterns)))
    except Exception as error:  # of its HTTP library, which changes with its versions
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{source} cannot be had ({reason}); name a local directory, or try again online"
        ) from error
