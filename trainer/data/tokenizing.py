"""Documents to token ids, with the end of text between them.

Every document stands between end-of-text tokens, so that each of its tokens has a context and
the model learns where texts end. Not here: where ids are kept (``trainer.data.token_files``).
"""

from collections.abc import Callable, Iterable, Iterator

from tokenizers import Tokenizer as Backend

from lm.text.tokenizer import Tokenizer
from trainer.data.pieces import pieces
from trainer.data.tokenizer_training import END_OF_TEXT

_PIECE_CHARACTERS = 1 << 18
"""Longer ones are encoded in pieces of whole lines, to bound memory, where ids stay the same."""


def encode_documents(
    documents: Iterable[str], tokenizer: Tokenizer, separator: int, advance: Callable[[int], object]
) -> Iterator[list[int]]:
    """Ids of all documents in chunks, a separator before, between and after them.

    ``advance`` is told of the characters of each chunk. Special tokens written out in a document
    are the text that they are.
    """
    backend = _plain_backend(tokenizer)
    may_be_cut = _may_be_cut(backend)
    yield [separator]
    for document in documents:
        for piece in pieces(document, _PIECE_CHARACTERS if may_be_cut else len(document)):
            yield backend.encode(piece, add_special_tokens=False).ids
            advance(len(piece))
        yield [separator]


def separator_id(tokenizer: Tokenizer) -> int:
    """Id of the token between documents: ``<|endoftext|>`` where there is one, else the end."""
    token_id = tokenizer.backend.token_to_id(END_OF_TEXT)
    if token_id is not None:
        return int(token_id)
    if not tokenizer.eos_token_ids:
        raise ValueError("the tokenizer names no end-of-text token to put between documents")
    return tokenizer.eos_token_ids[0]


def _plain_backend(tokenizer: Tokenizer) -> Backend:
    """A copy that takes special tokens written out in a text for the text that they are."""
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.encode_special_tokens = True
    return backend


def _may_be_cut(backend: Backend) -> bool:
    """Whether pieces have the ids of the whole; SentencePiece puts a space before each text."""

    def ids(text: str) -> list[int]:
        return backend.encode(text, add_special_tokens=False).ids

    return ids("a b\n") + ids("a b\n") == ids("a b\na b\n")
