"""Replies and the switchboard without a worker: turns are handed in by the test."""

import asyncio

import pytest
from serving import Exposition, generation_request, toy_served

from service.engine.request import (
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    Started,
    StepStats,
    TokenGenerated,
)
from service.engine.served_model import ServedModel
from service.engine.worker import Turn
from service.observe.metrics import Metrics
from service.requests.limits import Admission, Limits
from service.requests.reply_group import Chorus
from service.requests.request_start import Arrival
from service.requests.tracker import Reply, ReplyEvent, Switchboard


class RecordingWorker:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.submitted: list[str] = []
        self.aborted: list[str] = []

    def submit(self, model: ServedModel, request: GenerationRequest) -> None:
        self.submitted.append(request.request_id)

    def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)


class Office:
    """A switchboard and what is around it."""

    def __init__(self) -> None:
        self.metrics = Metrics(lambda: 0.0)
        self.switchboard = Switchboard(
            self.metrics, Admission(Limits(num_slots=2, max_waiting_requests=2))
        )
        self.worker = RecordingWorker()
        self.model = toy_served()

    def open(
        self,
        request_id: str,
        arrived: float = 0.0,
        inbox: asyncio.Queue[ReplyEvent] | None = None,
    ) -> Reply:
        request = generation_request(request_id)
        arrival = Arrival(arrived, "/generate", request_id)
        return self.switchboard.open(self.worker, self.model, request, arrival, inbox)  # type: ignore[arg-type]

    def turn(self, *events: Event, began_at: float, at: float) -> None:
        self.switchboard.on_turn(Turn(list(events), began_at, at, StepStats()))

    def exposition(self) -> Exposition:
        return Exposition(self.metrics.exposition().decode())


def test_events_reach_their_reply_in_order() -> None:
    office = Office()
    first, second = office.open("a"), office.open("b")
    assert office.worker.submitted == ["a", "b"]
    events = [TokenGenerated("a", 5, "x"), TokenGenerated("b", 6, "y"), TokenGenerated("a", 7, "z")]
    office.turn(Started("a"), Started("b"), *events, began_at=1, at=2)

    async def read() -> list[object]:
        return [
            await first.next_event(),
            await first.next_event(),
            await second.next_event(),
            await second.next_event(timeout_s=0.001),
        ]

    assert asyncio.run(read()) == [events[0], events[2], events[1], None]


def test_an_end_closes_the_account() -> None:
    office = Office()
    reply = office.open("a", arrived=0.5)
    office.turn(Started("a"), began_at=1.0, at=2.0)
    office.turn(TokenGenerated("a", 5, "x"), began_at=2.0, at=3.0)
    office.turn(
        TokenGenerated("a", 6, "y"),
        Finished("a", FinishReason.LENGTH),
        began_at=3.0,
        at=4.0,
    )
    assert reply.is_finished
    assert office.switchboard.num_open == 0
    assert reply.num_tokens == 2
    timeline = reply.timeline
    assert (timeline.queue_s, timeline.ttft_s, timeline.decode_s, timeline.total_s) == (
        0.5,
        2.5,
        1.0,
        3.5,
    )
    exposition = office.exposition()
    assert exposition.value("time_to_first_token_seconds_sum") == 2.5
    assert exposition.value("inter_token_latency_seconds_count") == 1
    assert exposition.value("requests_total", {"outcome": "length"}) == 1


def test_who_stops_listening_early_aborts() -> None:
    office = Office()
    with office.open("a"):
        assert office.worker.aborted == []
    assert office.worker.aborted == ["a"]


def test_the_end_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    office = Office()
    caplog.set_level("INFO")
    with office.open("a", arrived=0.5) as reply:
        office.turn(Started("a"), TokenGenerated("a", 5, "x"), began_at=1.0, at=2.0)
    office.turn(Finished("a", FinishReason.ABORT), began_at=2.0, at=3.0)
    (record,) = [record for record in caplog.records if record.message == "request ended"]
    assert record.fields == {  # type: ignore[attr-defined]
        "id": "a",
        "route": "/generate",
        "model": "toy@1",
        "prompt_tokens": len(reply.request.prompt_ids),
        "generated_tokens": 1,
        "queue_s": 0.5,
        "ttft_s": 1.5,
        "total_s": 2.5,
        "outcome": "abort",
        "client_gone": True,
    }


def test_an_end_that_the_service_makes_leaves_the_client_where_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    office = Office()
    caplog.set_level("INFO")
    with office.open("a"):
        office.switchboard.abort_all()
        office.turn(Finished("a", FinishReason.ABORT), began_at=1.0, at=2.0)
    (record,) = caplog.records
    assert record.fields["client_gone"] is False  # type: ignore[attr-defined]


@pytest.mark.parametrize("reason", [FinishReason.ERROR, FinishReason.TIMEOUT])
def test_where_one_answer_fails_the_service_ends_the_others(
    caplog: pytest.LogCaptureFixture, reason: FinishReason
) -> None:
    office = Office()
    caplog.set_level("INFO")

    async def hear() -> None:
        inbox: asyncio.Queue[ReplyEvent] = asyncio.Queue()
        with Chorus([office.open(name, inbox=inbox) for name in "ab"], n=2) as chorus:
            office.turn(Finished("b", reason, message="x"), began_at=1.0, at=2.0)
            assert await chorus.next_event() == (1, Finished("b", reason, message="x"))
        office.turn(Finished("a", FinishReason.ABORT), began_at=2.0, at=3.0)

    asyncio.run(hear())
    assert office.worker.aborted == ["a"]
    ends = [record.fields for record in caplog.records]  # type: ignore[attr-defined]
    assert [(end["outcome"], end["client_gone"]) for end in ends] == [
        (reason.value, False),
        ("abort", False),
    ]


def test_who_heard_the_end_aborts_nothing() -> None:
    office = Office()
    with office.open("a"):
        office.turn(Finished("a", FinishReason.STOP), began_at=1, at=2)
    assert office.worker.aborted == []


def test_all_open_requests_can_be_aborted() -> None:
    office = Office()
    for name in ("a", "b", "c"):
        office.open(name)
    office.turn(Finished("b", FinishReason.STOP), began_at=1, at=2)
    office.switchboard.abort_all()
    assert office.worker.aborted == ["a", "c"]
    assert office.switchboard.num_open == 2, "until the worker has answered"


def test_several_tokens_of_one_step_are_as_many_observations() -> None:
    office = Office()
    office.open("a")
    office.open("b")
    office.turn(Started("a", num_reused=2), Started("b"), began_at=0.0, at=1.0)
    one = [TokenGenerated("a", 5, ""), TokenGenerated("b", 5, "")]
    office.turn(*one, began_at=1.0, at=2.0)
    office.turn(*one, one[0], one[0], began_at=2.0, at=3.5)
    exposition = office.exposition()
    assert exposition.value("inter_token_latency_seconds_count") == 3 + 1
    assert exposition.value("inter_token_latency_seconds_sum") == 1.5 + 1.5
    assert exposition.value("inter_token_latency_seconds_bucket", {"le": "0.5"}) == 3
    assert exposition.value("prefix_cache_hits_total") == 2


def test_a_reply_that_cannot_be_handed_out_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        office = Office()
        bad, good = office.open("bad"), office.open("good")
        observe = Switchboard._observe

        def odd(self: Switchboard, reply: Reply, *arguments: object) -> None:
            if reply is bad:
                raise KeyError("odd")
            observe(self, reply, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Switchboard, "_observe", odd)
        turn: list[Event] = [Started("bad"), Started("good"), TokenGenerated("good", 5, "x")]
        office.switchboard.on_turn(Turn(turn, 0.0, 0.1, StepStats()))
        end = await bad.next_event()
        assert isinstance(end, Finished)
        assert end.reason is FinishReason.ERROR
        assert await good.next_event() == TokenGenerated("good", 5, "x")
        assert office.worker.aborted == ["bad"]
        # What the engine still says of it is for nobody.
        late: list[Event] = [TokenGenerated("bad", 5, "x"), Finished("bad", FinishReason.ABORT)]
        office.switchboard.on_turn(Turn(late, 0.2, 0.3, StepStats()))
        assert not bad.has_event
        assert office.switchboard.num_open == 1
        assert office.switchboard.num_open_on(office.model) == 1

    asyncio.run(run())
