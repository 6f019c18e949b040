"""What single tokens say, for lists of log-probabilities."""

from lm.incremental import byte_alphabet, token_bytes
from lm.tokenizer import Tokenizer
from service.engine.request import TokenScore


def utf8(tokenizer: Tokenizer, token_id: int) -> bytes:
    """Bytes of a token; a special one is spelled out."""
    token = tokenizer.backend.id_to_token(token_id) or ""
    if token_id in tokenizer.special_token_ids:
        return token.encode()
    if all(character in byte_alphabet() for character in token):
        return token_bytes(tokenizer, token_id)
    return token.replace("▁", " ").encode()


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """A token for people; a part of a character is spelled ``bytes:`` and hexadecimal escapes."""
    content = utf8(tokenizer, token_id)
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
