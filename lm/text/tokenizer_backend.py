"""Reads a vocabulary: a ``tokenizer.json``, or SentencePiece's own file."""

from typing import Any

from tokenizers import Tokenizer as Backend

from lm.panics import LibraryPanic, without_panics
from lm.side_files import SideFiles
from lm.text import sentencepiece_file


def read_backend(given: SideFiles, name: str) -> tuple[Backend, dict[str, Any]]:
    """The vocabulary, and the special tokens that it names itself."""
    content, file = given.read(name), given.where / name
    if content is None and given.read(sentencepiece_file.FILE) is not None:
        return sentencepiece_file.read_sentencepiece(given.where / sentencepiece_file.FILE)
    if content is None:
        raise ValueError(f"no tokenizer at {file}")
    try:
        with without_panics("the tokenizer"):
            return Backend.from_buffer(content), {}
    except LibraryPanic as error:
        raise LibraryPanic(f"{file}: {error}") from error
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{file} is not a tokenizer: {error}") from error
