from hypothesis import given, settings
from hypothesis import strategies as st
from toys import toy_tokenizer

from service.engine.output_text import StopMatcher, TextStream

PIECES = st.lists(st.text("ab\n", max_size=4), max_size=12)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=3)


def undecided(text: str, stops: list[str]) -> int:
    """Length of the longest tail that could still become a stop string."""
    lengths = range(len(text) + 1)
    return max(
        length
        for length in lengths
        if length == 0
        or any(len(stop) > length and stop.startswith(text[-length:]) for stop in stops)
    )


@settings(derandomize=True, deadline=None, max_examples=300)
@given(pieces=PIECES, stops=STOPS)
def test_exactly_what_is_decided_is_sent(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(tuple(stops))
    seen, sent = "", ""
    for piece in pieces:
        seen += piece
        text, stopped = matcher.push(piece)
        sent += text
        found = [seen.index(stop) for stop in stops if stop in seen]
        assert stopped == bool(found)
        if found:
            assert sent == seen[: min(found)]
            return
        assert sent == seen[: len(seen) - undecided(seen, stops)]
    assert sent + matcher.finish() == seen


def test_a_stop_string_over_many_pieces_never_leaks() -> None:
    matcher = StopMatcher(("\n\nUser:",))
    sent = [matcher.push(piece) for piece in ("Yes.", "\n", "\nUs", "er", ": what")]
    assert sent == [("Yes.", False), ("", False), ("", False), ("", False), ("", True)]


def test_a_false_start_is_sent_as_soon_as_it_is_one() -> None:
    matcher = StopMatcher(("STOP",))
    assert matcher.push("a STO") == ("a ", False)
    assert matcher.push("VE S") == ("STOVE ", False)
    assert matcher.finish() == "S"
    assert matcher.finish() == ""


def test_the_earliest_stop_in_a_piece_wins() -> None:
    assert StopMatcher(("two", "one")).push("zero one two") == ("zero ", True)


def test_without_stop_strings_nothing_is_held_back() -> None:
    assert StopMatcher(()).push("abc") == ("abc", False)


WORDS = "naïve 你好、世界 🙂🇩🇪👨‍👩‍👧 done"


def streamed(text: str, stops: tuple[str, ...]) -> tuple[list[str], bool]:
    """Pieces of a text that comes token by token, up to a stop."""
    stream = TextStream(toy_tokenizer(), stops)
    pieces = []
    for token_id in toy_tokenizer().encode(text):
        piece, stopped = stream.push(token_id)
        pieces.append(piece)
        if stopped:
            return pieces, True
    piece, stopped = stream.finish()
    return [*pieces, piece], stopped


def test_characters_of_many_bytes_come_whole() -> None:
    pieces, stopped = streamed(WORDS, ())
    assert "".join(pieces) == WORDS
    assert not stopped
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert "" in pieces, "some tokens end inside a character"


def test_a_stop_string_of_many_bytes_is_found_across_tokens() -> None:
    for stop in ("世界", "🙂", "👨‍👩‍👧", "🇩🇪", "好、"):
        pieces, stopped = streamed(WORDS, (stop,))
        assert stopped
        assert "".join(pieces) == WORDS[: WORDS.index(stop)]


def test_half_a_character_at_the_end_is_sent_as_a_replacement() -> None:
    stream = TextStream(toy_tokenizer(), ())
    first_byte = toy_tokenizer().encode("🙂")[0]
    assert stream.push(first_byte) == ("", False)
    assert stream.finish() == ("\N{REPLACEMENT CHARACTER}", False)


def test_a_stop_string_may_complete_only_at_the_end() -> None:
    stream = TextStream(toy_tokenizer(), ("\N{REPLACEMENT CHARACTER}",))
    stream.push(toy_tokenizer().encode("🙂")[0])
    assert stream.finish() == ("", True)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    token_ids=st.lists(st.integers(0, 299), max_size=40),
    stops=st.lists(st.text("ethou ", min_size=1, max_size=3), max_size=2),
)
def test_any_tokens_give_the_text_before_the_first_stop(
    token_ids: list[int], stops: list[str]
) -> None:
    stream = TextStream(toy_tokenizer(), tuple(stops))
    sent, stopped = "", False
    for count, token_id in enumerate(token_ids, start=1):
        piece, stopped = stream.push(token_id)
        sent += piece
        if stopped:
            token_ids = token_ids[:count]
            break
    else:
        piece, stopped = stream.finish()
        sent += piece
    text = toy_tokenizer().decode(token_ids)
    ends = [text.index(stop) for stop in stops if stop in text]
    assert stopped == bool(ends)
    assert sent == text[: min(ends, default=len(text))]
