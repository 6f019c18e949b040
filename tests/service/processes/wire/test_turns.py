from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from service.engine.request import (
    Event,
    Finished,
    FinishReason,
    PromptScored,
    Started,
    TokenGenerated,
    TokenScore,
)
from service.processes.wire.turns import TurnWriter, events_of, read_turn

IDS = st.integers(0, 2**32 - 1)
TEXT = st.text(st.characters(codec=None), max_size=6)
"""Halves of surrogate pairs among them."""
SCORES = st.builds(
    TokenScore,
    token_id=IDS,
    logprob=st.floats(max_value=0, allow_nan=False),
    top=st.lists(st.tuples(IDS, st.floats(max_value=0, allow_nan=False)), max_size=3).map(tuple),
)


class Plain:
    """Names requests by their numbers, and leaves texts as they are."""

    def name(self, number: int) -> str:
        return str(number)

    def token_text(self, number: int, token_id: int, text: str) -> str:
        return text

    def end_text(self, number: int, text: str) -> str:
        return text


@st.composite
def request_events(draw: st.DrawFn, number: int) -> list[Event]:
    """What a step may bring one request, in order."""
    name = str(number)
    events: list[Event] = []
    if draw(st.booleans()):
        events.append(Started(name, draw(IDS)))
    if draw(st.booleans()):
        events.append(PromptScored(name, tuple(draw(st.lists(SCORES, max_size=3)))))
    is_scored = draw(st.booleans())
    for token_id in draw(st.lists(IDS, max_size=4)):
        score = draw(SCORES) if is_scored else None
        events.append(TokenGenerated(name, token_id, draw(TEXT), score))
    if draw(st.booleans()):
        reason = draw(st.sampled_from(FinishReason))
        score = draw(st.none() | SCORES)
        events.append(
            Finished(
                name,
                reason,
                draw(TEXT),
                draw(TEXT),
                by_text=draw(st.booleans()),
                score=score,
                is_refusal=draw(st.booleans()),
            )
        )
    return events


def crossed(events: Sequence[Event]) -> list[Event]:
    writer = TurnWriter()
    for event in events:
        writer.add(int(event.request_id), event)
    turn = read_turn(writer.payload(1.25, 2.5))
    assert (turn.began_at, turn.at) == (1.25, 2.5)
    return events_of(turn, Plain())


@given(st.data(), st.integers(0, 4))
def test_events_cross_whole_and_each_requests_in_order(data: st.DataObject, count: int) -> None:
    numbers = data.draw(st.lists(IDS, min_size=count, max_size=count, unique=True))
    by_request = {number: data.draw(request_events(number)) for number in numbers}
    sent = [event for events in by_request.values() for event in events]
    received = crossed(sent)
    assert len(received) == len(sent)
    for number, events in by_request.items():
        assert [one for one in received if one.request_id == str(number)] == events


def test_plain_tokens_take_eight_bytes_each() -> None:
    def size(count: int) -> int:
        writer = TurnWriter()
        for number in range(count):
            writer.add(number, TokenGenerated(str(number), 7, ""))
        return len(writer.payload(0.0, 0.0))

    assert size(256) - size(0) == 256 * 8
