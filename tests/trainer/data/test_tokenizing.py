from collections.abc import Callable, Sequence

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers

from lm.text.tokenizer import Tokenizer
from trainer.data import tokenizing as encoding
from trainer.data.token_files import bytes_of_tokens
from trainer.data.tokenizer_training import END_OF_TEXT, train_tokenizer
from trainer.data.tokenizing import encode_documents, separator_id


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["To be,\nor not.\n", "Ay, there's the rub.\n"], 270)


def encoded(tokenizer: Tokenizer, documents: Sequence[str]) -> tuple[list[int], int]:
    """Ids of documents, and the characters that were reported on the way."""
    told: list[int] = []
    chunks = list(encode_documents(documents, tokenizer, 0, told.append))
    return [token_id for chunk in chunks for token_id in chunk], sum(told)


def test_separators_stand_before_between_and_after_documents(tokenizer: Tokenizer) -> None:
    first, second = tokenizer.encode("To be"), tokenizer.encode("not")
    assert encoded(tokenizer, ["To be", "not"]) == ([0, *first, 0, *second, 0], 8)


def test_a_special_token_written_out_in_a_text_is_text(tokenizer: Tokenizer) -> None:
    text = f"print('{END_OF_TEXT}')"
    token_ids, _ = encoded(tokenizer, [text])
    assert token_ids.count(0) == 2
    assert tokenizer.decode(token_ids) == text
    assert tokenizer.encode(END_OF_TEXT) == [0]


def test_long_documents_are_encoded_in_pieces_of_whole_lines(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_PIECE_CHARACTERS", 16)
    documents = ["short\nlines\nhere\n" * 9, "x" * 50]
    token_ids, told = encoded(tokenizer, documents)
    assert tokenizer.decode(token_ids) == "".join(documents)
    assert told == sum(map(len, documents))


def sentence_piece() -> Tokenizer:
    """A vocabulary as Llama 2's, of a few words; bytes spell the rest."""
    tokens = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁to", "▁be"]
    backend = Backend(
        models.Unigram([(t, -float(i)) for i, t in enumerate(tokens)], unk_id=0, byte_fallback=True)
    )
    backend.add_special_tokens(["<unk>", "</s>"])
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


def test_pieces_get_no_space_that_the_whole_document_has_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoding, "_PIECE_CHARACTERS", 8)
    document = "to be\nto be é\nto\n" * 3
    token_ids = [
        one for chunk in encode_documents([document], sentence_piece(), 1, int) for one in chunk
    ]
    assert token_ids == [1, *sentence_piece().encode(document), 1]


@pytest.mark.parametrize("make", [sentence_piece, lambda: train_tokenizer(["to be é"], 270)])
def test_bytes_of_tokens_add_up_to_the_bytes_of_the_text(make: Callable[[], Tokenizer]) -> None:
    tokenizer = make()
    document = "to be\nto 日 é\n" * 3
    ids = [one for chunk in encode_documents([document], tokenizer, 1, int) for one in chunk][1:-1]
    added = tokenizer.encode("to")[0] == tokenizer.backend.token_to_id("▁to")
    counted = int(bytes_of_tokens(tokenizer)[ids].sum())
    assert counted == len(document.encode()) + added  # the space that begins a text


def test_a_tokenizer_without_an_end_of_text_is_refused() -> None:
    backend = Backend(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer = Tokenizer(backend, bos_token_id=None, eos_token_ids=[])
    with pytest.raises(ValueError, match="no end-of-text token"):
        separator_id(tokenizer)


def test_the_end_of_text_separates_even_where_a_chat_ends_with_another_token() -> None:
    backend = Backend(models.WordLevel({END_OF_TEXT: 0, "<|im_end|>": 1}, unk_token=END_OF_TEXT))
    chat = Tokenizer(backend, bos_token_id=1, eos_token_ids=[1])
    assert separator_id(chat) == 0
