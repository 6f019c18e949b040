"""A text has at least as many tokens as is said without looking for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers
from toys import toy_tokenizer

from lm.text.longest_token import TokenBytes
from lm.text.tokenizer import Tokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def with_bytes_missing() -> Backend:
    """A byte-level vocabulary without the byte 6, as SmolLM2's."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    kept = [one for one in alphabet if one != chr(0x106)]
    backend = Backend(models.BPE({one: index for index, one in enumerate(kept)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def composing() -> Backend:
    """One that composes characters first, as Qwen's."""
    backend = Backend.from_str(toy_tokenizer().backend.to_str())
    backend.normalizer = normalizers.NFC()
    return backend


@pytest.mark.parametrize(
    "backend",
    [toy_tokenizer().backend, with_bytes_missing(), composing()],
    ids=["toy", "missing", "nfc"],
)
@given(text=TEXTS)
def test_no_text_has_fewer_tokens(backend: Backend, text: str) -> None:
    token_bytes = TokenBytes.of(backend)
    assert token_bytes.most is not None
    assert token_bytes.least_tokens(text) <= len(backend.encode(text).ids)


def test_a_long_text_is_known_to_be_long() -> None:
    token_bytes = TokenBytes.of(toy_tokenizer().backend)
    assert token_bytes.most == len("<|endoftext|>")
    assert token_bytes.least_tokens("a" * 13_000) == 1000
    assert TokenBytes.of(with_bytes_missing()).dropped == b"\x06"
    assert TokenBytes.of(with_bytes_missing()).least_tokens("\x06" * 1000) == 0


def test_where_text_can_vanish_nothing_is_known() -> None:
    words = Backend(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    assert TokenBytes.of(words) == TokenBytes(None)
    assert TokenBytes(None).least_tokens("a" * 1000) == 0
    stripping = composing()
    stripping.normalizer = normalizers.Strip()
    assert TokenBytes.of(stripping).most is None


@given(text=TEXTS)
def test_aside_is_the_same(text: str) -> None:
    tokenizer: Tokenizer = toy_tokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.encode_aside(text) == ids
    assert tokenizer.decode_aside(ids) == tokenizer.decode(ids)
