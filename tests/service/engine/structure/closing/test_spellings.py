"""The fewest tokens that spell a text, against trying all ways."""

import itertools

from llguidance import LLTokenizer
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel as Decoder
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import ByteLevel

from service.engine.structure.closing.spellings import Spellings


def spellings(*words: str) -> Spellings:
    backend = Backend(WordLevel({word: number for number, word in enumerate(words)}, words[0]))
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), Decoder()
    return Spellings(LLTokenizer(backend.to_str(), eos_token=0))


def test_fewest() -> None:
    words = ("~", "a", "b", "ab", "aba", "bab")
    spelt = spellings(*words)
    ids = {word.encode(): number for number, word in enumerate(words)}
    for length in range(1, 6):
        for letters in itertools.product("ab", repeat=length):
            text = "".join(letters).encode()
            found = spelt.fewest(text)
            assert found is not None
            assert b"".join(spelt.bytes_of[token_id] for token_id in found) == text
            shorter = itertools.product(ids, repeat=len(found) - 1)
            assert all(b"".join(tokens) != text for tokens in shorter)


def test_what_no_tokens_spell() -> None:
    assert spellings("~", "ab", "b").fewest(b"aab") is None
    assert spellings("~", "ab", "b").fewest(b"") == ()


def test_allowed_bytes() -> None:
    spelt = spellings("~", "b", "ab", "a", "!")
    assert spelt.allowed_bytes(bytes([0b01111])) == b"ab~"
    assert spelt.allowed_bytes(bytes([0b10100])) == b"!"
