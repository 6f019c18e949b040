from hypothesis import given
from hypothesis import strategies as st

from trainer.data.corpora.split import Split, num_bytes, shorten, split_tail

DOCUMENTS = st.lists(st.text(st.characters(codec="utf-8")), max_size=8).map(tuple)


def test_the_tail_is_whole_documents_and_at_least_the_fraction() -> None:
    split = split_tail(["a" * 10, "b" * 10, "c" * 10, "d" * 10], 0.3, "letters")
    assert split.train == ("a" * 10, "b" * 10)
    assert split.validation == ("c" * 10, "d" * 10)


def test_one_document_alone_is_trained_on() -> None:
    assert split_tail(["only"], 0.5, "one") == Split(("only",), (), "one")


def test_shortening_cuts_both_parts_in_proportion_at_line_ends() -> None:
    split = Split(("line\n" * 80,), ("line\n" * 20,), "lines")
    short = shorten(split, 250)
    assert (num_bytes(short.train), num_bytes(short.validation)) == (200, 50)


@given(train=DOCUMENTS, validation=DOCUMENTS, limit=st.integers(1, 200))
def test_what_is_left_fits_and_begins_as_the_whole(
    train: tuple[str, ...], validation: tuple[str, ...], limit: int
) -> None:
    short = shorten(Split(train, validation, ""), limit)
    assert num_bytes(short.train + short.validation) <= limit
    assert "".join(train).startswith("".join(short.train))
    assert "".join(validation).startswith("".join(short.validation))
