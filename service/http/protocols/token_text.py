"""What single tokens say, for lists of log-probabilities."""

import codecs
from collections.abc import Sequence

from lm.text.tokenizer import Tokenizer
from service.engine.request import TokenScore


def utf8(tokenizer: Tokenizer, token_id: int) -> bytes:
    """Bytes of a token inside a text; a special one is spelled out."""
    if token_id in tokenizer.special_token_ids:
        return (tokenizer.backend.id_to_token(token_id) or "").encode()
    return tokenizer.bytes_of(token_id)


def prompt_utf8(tokenizer: Tokenizer, token_ids: Sequence[int]) -> list[bytes]:
    """Bytes of a prompt's tokens; the one that the tokenizer begins a text with has none."""
    begins = tokenizer.encode("")[:1] == list(token_ids[:1]) == [tokenizer.bos_token_id]
    contents = [b""] if begins else []
    is_first = True
    for token_id in token_ids[len(contents) :]:
        content = utf8(tokenizer, token_id)
        if is_first and content and token_id not in tokenizer.special_token_ids:
            content, is_first = tokenizer.first_bytes_of(token_id), False
        contents.append(content)
    return contents


class Offsets:
    """Where each token of a growing text begins, in characters."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._num_characters = 0

    def add(self, content: bytes) -> int:
        """Where a token of these bytes begins; a part of a character where the character does."""
        start = self._num_characters
        self._num_characters += len(self._utf8.decode(content))
        return start


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """A token for people; a part of a character is spelled ``bytes:`` and hexadecimal escapes."""
    return text_of(utf8(tokenizer, token_id))


def text_of(content: bytes) -> str:
    """Bytes of a token for people, as ``token_text`` says them."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def scored(tokenizer: Tokenizer, score: TokenScore) -> dict[str, object]:
    """A score in our own words."""
    return {
        "token_id": score.token_id,
        "text": token_text(tokenizer, score.token_id),
        "logprob": score.logprob,
        "top": [
            {"token_id": token, "text": token_text(tokenizer, token), "logprob": logprob}
            for token, logprob in score.top
        ],
    }
