import functools
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from toys import END_OF_TEXT, toy_tokenizer
from toys.properties import examples

from lm.text.incremental import (
    REPLACEMENT_CHARACTER,
    ByteDecoder,
    IncrementalDecoder,
    LibraryDecoder,
    incremental_decoder,
)
from lm.text.token_bytes import byte_alphabet
from lm.text.tokenizer import Tokenizer

TRICKY_TEXTS = [
    "To be, or not to be",
    "naïve café",
    "日本語と中文",
    "👩‍👩‍👧‍👦 and 🏳️‍🌈",
    "e\u0301o\u0308 Z\u0351\u036b",
    "नमस्ते",
    "\U0010ffff\u0000\ufeff",
    "a\N{REPLACEMENT CHARACTER}b",
]
_WORDS = ["to be or not to be that is the question", "slings and arrows of fortune", "日 é 😀"]


@functools.cache
def byte_level() -> Tokenizer:
    """The toy's tokenizer with tokens added as chat models add them."""
    backend = Backend.from_str(toy_tokenizer().backend.to_str())
    backend.add_tokens([AddedToken("<tool>"), AddedToken("é"), AddedToken("日本")])
    backend.add_special_tokens(["<|im_end|>"])
    return Tokenizer(backend, bos_token_id=0, eos_token_ids=[0])


@functools.cache
def metaspace() -> Tokenizer:
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(_WORDS, trainer)
    return Tokenizer(backend, bos_token_id=None, eos_token_ids=[1])


@functools.cache
def word_piece() -> Tokenizer:
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=120, special_tokens=["[UNK]", "[SEP]"], show_progress=False
    )
    backend.train_from_iterator(_WORDS, trainer)
    return Tokenizer(backend, bos_token_id=None, eos_token_ids=[1])


@functools.cache
def byte_fallback() -> Tokenizer:
    """A vocabulary as Llama 2's: what has no token of its own is spelled in byte tokens."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "</s>", *byte_tokens, "▁", *"abcdefghé", "▁a", "▁b", "▁ab"]
    model = models.BPE(
        vocab={token: token_id for token_id, token in enumerate(tokens)},
        merges=[("▁", "a"), ("▁", "b"), ("▁a", "b")],
        byte_fallback=True,
        unk_token="<unk>",
        fuse_unk=True,
    )
    backend = Backend(model)
    backend.add_special_tokens(["</s>"])
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return Tokenizer(backend, bos_token_id=None, eos_token_ids=[1])


def pieces_of(decoder: IncrementalDecoder, token_ids: list[int]) -> list[str]:
    return [*(decoder.push(token_id) for token_id in token_ids), decoder.finish()]


def ids_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Any ids, those past the vocabulary too: a padded model may choose them."""
    return st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=40)


@examples(400)
@given(ids_of(byte_level()))
def test_byte_level_pieces_join_to_the_whole_for_any_ids(token_ids: list[int]) -> None:
    tokenizer = byte_level()
    pieces = pieces_of(incremental_decoder(tokenizer), token_ids)
    assert "".join(pieces) == tokenizer.decode(token_ids)


@examples(300)
@given(st.lists(st.integers(0, 255), max_size=24))
def test_any_bytes_stream_as_a_lenient_utf8_decoder_reads_them(content: list[int]) -> None:
    tokenizer = toy_tokenizer()
    letter = {byte: character for character, byte in byte_alphabet().items()}
    token_ids = [tokenizer.backend.token_to_id(letter[byte]) for byte in content]
    joined = "".join(pieces_of(ByteDecoder(tokenizer), token_ids))
    assert joined == bytes(content).decode("utf-8", errors="replace") == tokenizer.decode(token_ids)


@examples(200)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_text_is_streamed_as_soon_as_its_characters_are_whole(text: str) -> None:
    tokenizer = toy_tokenizer()
    decoder = ByteDecoder(tokenizer)
    sent, received = "", b""
    for token_id in tokenizer.encode(text):
        sent += decoder.push(token_id)
        received += tokenizer.bytes_of(token_id)
        assert sent == received.decode("utf-8", errors="ignore")
    assert decoder.finish() == ""
    assert sent == text


@pytest.mark.parametrize("text", TRICKY_TEXTS)
@pytest.mark.parametrize("kind", [ByteDecoder, LibraryDecoder])
def test_no_piece_holds_half_a_character(
    kind: type[ByteDecoder] | type[LibraryDecoder], text: str
) -> None:
    tokenizer = toy_tokenizer()
    pieces = pieces_of(kind(tokenizer), tokenizer.encode(text))
    assert "".join(pieces) == text
    broken = "".join(pieces).count(REPLACEMENT_CHARACTER)
    assert broken == text.count(REPLACEMENT_CHARACTER)
    assert all(text.startswith("".join(pieces[:count])) for count in range(len(pieces)))


def test_half_a_character_is_held_back_and_at_the_end_shown_as_broken() -> None:
    tokenizer = toy_tokenizer()
    half = tokenizer.encode("日")[:-1]
    for kind in (ByteDecoder, LibraryDecoder):
        decoder = kind(tokenizer)
        assert [decoder.push(token_id) for token_id in half] == [""] * len(half)
        assert decoder.finish() == REPLACEMENT_CHARACTER


def test_a_combining_mark_follows_its_letter_in_a_piece_of_its_own() -> None:
    tokenizer = toy_tokenizer()
    pieces = pieces_of(ByteDecoder(tokenizer), tokenizer.encode("e\u0301"))
    assert [piece for piece in pieces if piece] == ["e", "\u0301"]
    assert unicodedata.normalize("NFC", "".join(pieces)) == "é"


@functools.cache
def suffixes() -> Tokenizer:
    """A BPE that marks the ends of words, as GPT-1's: the last token of a text has no space."""
    backend = Backend(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=120,
        special_tokens=["<unk>"],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    backend.train_from_iterator(_WORDS, trainer)
    return Tokenizer(backend, bos_token_id=None, eos_token_ids=[])


@functools.cache
def bare() -> Tokenizer:
    """A vocabulary without a decoder: the library puts spaces between tokens."""
    backend = Backend(models.WordLevel({"<unk>": 0, "to": 1, "be": 2, "é": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return Tokenizer(backend, bos_token_id=None, eos_token_ids=[])


@functools.cache
def gemma() -> Tokenizer:
    """As ``byte_fallback``, but nothing is put before a text and nothing taken away."""
    backend = Backend.from_str(byte_fallback().backend.to_str())
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return Tokenizer(backend, bos_token_id=None, eos_token_ids=[1])


def test_only_what_depends_on_later_tokens_goes_through_the_library() -> None:
    assert isinstance(incremental_decoder(suffixes()), LibraryDecoder)
    for make in (byte_level, metaspace, word_piece, byte_fallback, bare, gemma):
        assert isinstance(incremental_decoder(make()), ByteDecoder)


@pytest.mark.parametrize(
    "steps",
    [
        [decoders.Fuse(), decoders.Replace("ab", "b")],
        [decoders.Fuse(), decoders.Strip(" ", 2, 0)],
        [decoders.Fuse(), decoders.Metaspace()],
        [decoders.Fuse(), decoders.ByteFallback()],
        [decoders.ByteLevel(), decoders.Strip(" ", 1, 0)],
    ],
    ids=str,
)
def test_steps_that_look_at_the_whole_text_go_through_the_library(steps: list[Any]) -> None:
    backend = Backend.from_str(byte_fallback().backend.to_str())
    backend.decoder = decoders.Sequence(steps)
    tokenizer = Tokenizer(backend, bos_token_id=None, eos_token_ids=[1])
    assert not tokenizer.spelling.is_exact
    assert isinstance(incremental_decoder(tokenizer), LibraryDecoder)


@pytest.mark.parametrize("make", [metaspace, word_piece, byte_fallback, bare, gemma, byte_level])
@examples(100)
@given(data=st.data())
def test_the_bytes_of_a_text_are_those_of_its_tokens(
    make: Callable[[], Tokenizer], data: st.DataObject
) -> None:
    tokenizer = make()
    token_ids = data.draw(ids_of(tokenizer))
    spoken = [one for one in token_ids if tokenizer.bytes_of(one)]
    whole = tokenizer.decode(token_ids)
    if REPLACEMENT_CHARACTER not in whole:
        parts = [tokenizer.first_bytes_of(one) for one in spoken[:1]]
        parts += [tokenizer.bytes_of(one) for one in spoken[1:]]
        assert b"".join(parts).decode() == whole
    anchor = tokenizer.encode("be")
    after = tokenizer.decode([*anchor, *token_ids]).removeprefix(tokenizer.decode(anchor))
    if REPLACEMENT_CHARACTER not in after:
        assert sum(len(tokenizer.bytes_of(one)) for one in token_ids) == len(after.encode())


@pytest.mark.parametrize(
    ("make", "token", "expected"),
    [
        (byte_fallback, "▁ab", b" ab"),
        (byte_fallback, "<0xE9>", b"\xe9"),
        (byte_fallback, "é", "é".encode()),
        (metaspace, "▁", b" "),
        (word_piece, "##o", b"o"),
        (suffixes, "o</w>", b"o "),
        (bare, "to", b" to"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_token_inside_a_text_stands_for_these_bytes(
    make: Callable[[], Tokenizer], token: str, expected: bytes
) -> None:
    tokenizer = make()
    token_id = tokenizer.backend.token_to_id(token)
    assert token_id is not None
    assert tokenizer.bytes_of(token_id) == expected


@pytest.mark.parametrize("rest", [[], ["▁ab"], ["<0x20>", "a"]], ids=str)
def test_a_space_spelled_as_a_byte_is_taken_from_the_beginning_of_a_text(rest: list[str]) -> None:
    tokenizer = byte_fallback()
    token_ids = [tokenizer.backend.token_to_id(token) for token in ("<0x20>", *rest)]
    pieces = pieces_of(incremental_decoder(tokenizer), token_ids)
    assert "".join(pieces) == tokenizer.decode(token_ids)
    assert tokenizer.bytes_of(token_ids[0]) == b" "


@examples(100)
@given(ids_of(suffixes()))
def test_suffix_pieces_join_to_the_whole_for_any_ids(token_ids: list[int]) -> None:
    pieces = pieces_of(incremental_decoder(suffixes()), token_ids)
    assert "".join(pieces) == suffixes().decode(token_ids)


@pytest.mark.parametrize("make", [byte_fallback, metaspace, bare])
def test_what_goes_on_with_a_text_keeps_its_first_space(make: Callable[[], Tokenizer]) -> None:
    tokenizer = make()
    head = tokenizer.encode("a b" if make is byte_fallback else "to be")
    pieces = pieces_of(incremental_decoder(tokenizer, at_start=False), head)
    begun = pieces_of(incremental_decoder(tokenizer), head)
    assert "".join(pieces) == " " + "".join(begun)
    assert tokenizer.decode(head + head) == "".join(begun) + "".join(pieces)


@examples(200)
@given(ids_of(metaspace()))
def test_metaspace_pieces_join_to_the_whole_for_any_ids(token_ids: list[int]) -> None:
    pieces = pieces_of(incremental_decoder(metaspace()), token_ids)
    assert "".join(pieces) == metaspace().decode(token_ids)


@examples(200)
@given(ids_of(word_piece()))
def test_word_piece_pieces_join_to_the_whole_for_any_ids(token_ids: list[int]) -> None:
    pieces = pieces_of(incremental_decoder(word_piece()), token_ids)
    assert "".join(pieces) == word_piece().decode(token_ids)


@pytest.mark.parametrize("tokens", [["##", "a"], ["##"], ["##", "##", "##b"], ["a", "##"]])
def test_a_word_piece_of_the_prefix_alone_is_text_only_at_the_beginning(tokens: list[str]) -> None:
    vocabulary = {"[UNK]": 0, "##": 1, "a": 2, "##b": 3}
    backend = Backend(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    tokenizer = Tokenizer(backend, bos_token_id=None, eos_token_ids=[0])
    token_ids = [vocabulary[token] for token in tokens]
    pieces = pieces_of(incremental_decoder(tokenizer), token_ids)
    assert "".join(pieces) == tokenizer.decode(token_ids) == backend.decode(token_ids)


@examples(200)
@given(st.text(alphabet="ab cé日😀\u0301", max_size=20))
def test_byte_fallback_pieces_join_to_the_whole_for_any_text(text: str) -> None:
    tokenizer = byte_fallback()
    token_ids = tokenizer.encode(text)
    pieces = pieces_of(incremental_decoder(tokenizer), token_ids)
    assert "".join(pieces) == tokenizer.decode(token_ids) == text
    assert not any(REPLACEMENT_CHARACTER in piece for piece in pieces)


@examples(300)
@given(ids_of(byte_fallback()))
def test_byte_fallback_streams_any_ids_and_breaks_only_what_is_broken(token_ids: list[int]) -> None:
    tokenizer = byte_fallback()
    whole, pieces = tokenizer.decode(token_ids), pieces_of(LibraryDecoder(tokenizer), token_ids)
    if REPLACEMENT_CHARACTER in whole:
        assert REPLACEMENT_CHARACTER in "".join(pieces)
    else:
        assert "".join(pieces) == whole


@examples(200)
@given(ids_of(byte_level()))
def test_the_two_decoders_agree_where_both_apply(token_ids: list[int]) -> None:
    by_library = "".join(pieces_of(LibraryDecoder(byte_level()), token_ids))
    assert by_library == "".join(pieces_of(ByteDecoder(byte_level()), token_ids))


def test_two_streams_do_not_share_what_they_hold_back() -> None:
    tokenizer = toy_tokenizer()
    first, second = incremental_decoder(tokenizer), incremental_decoder(tokenizer)
    head, *tail = tokenizer.encode("日")
    assert first.push(head) == ""
    assert second.push(tokenizer.encode("x")[0]) == "x"
    assert "".join(first.push(token_id) for token_id in tail) == "日"


def test_special_and_unknown_ids_stand_for_no_bytes() -> None:
    tokenizer = byte_level()
    assert tokenizer.bytes_of(tokenizer.backend.token_to_id(END_OF_TEXT)) == b""
    assert tokenizer.bytes_of(tokenizer.backend.token_to_id("<|im_end|>")) == b""
    assert tokenizer.bytes_of(99_999) == b""


def test_an_added_token_that_is_not_special_stands_for_its_text() -> None:
    tokenizer = byte_level()
    assert tokenizer.bytes_of(tokenizer.backend.token_to_id("日本")) == "日本".encode()
    assert tokenizer.bytes_of(tokenizer.backend.token_to_id("<tool>")) == b"<tool>"


def test_the_alphabet_is_the_librarys_and_covers_every_byte_once() -> None:
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))
    assert byte_alphabet()["Ġ"] == ord(" ")
    assert byte_alphabet()["Ċ"] == ord("\n")
