import itertools
import time
from collections.abc import Sequence

import pytest
from serving import generation_request, toy_served, wait_until

from service.engine.request import Event, Finished, FinishReason, TokenGenerated
from service.engine.worker import Turn, Worker
from service.errors import QueueFull, TooManyRequests
from service.observe.metrics import Metrics
from service.processes.multiplexer import Hub, Opened
from service.processes.wire.frames import Kind, Splitter
from service.processes.wire.turns import TurnWriter, events_of, read_turn
from service.requests.limits import Admission, Limits


class Listener:
    """An HTTP process that keeps what it hears."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.is_open = True
        self.frames: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.frames.append(frame)

    def name(self, number: int) -> str:
        return f"{self.prefix}{number}"

    def token_text(self, number: int, token_id: int, text: str) -> str:
        return text

    def end_text(self, number: int, text: str) -> str:
        return text

    def turns(self) -> list[list[Event]]:
        frames = Splitter().feed(b"".join(self.frames))
        return [
            events_of(read_turn(payload), self) for kind, payload in frames if kind is Kind.TURN
        ]

    def ends(self) -> list[Finished]:
        return [one for turn in self.turns() for one in turn if isinstance(one, Finished)]


class Bench:
    """A hub over a worker with a toy model, and its limits."""

    def __init__(self, **limits: int) -> None:
        given = {"num_slots": 4, "max_waiting_requests": 2} | limits
        self.metrics = Metrics(time.time)
        self.admission = Admission(Limits(**given))
        self.hub: Hub | None = None
        self.worker = Worker(self._on_turn, time.perf_counter)
        self.hub = Hub(self.metrics, self.admission, self.worker)
        self.model = toy_served()

    def _on_turn(self, turn: Turn) -> None:
        assert self.hub is not None
        self.hub.on_turn(turn)

    def submit(
        self, listener: Listener, numbers: Sequence[int], client: str = "", max_new_tokens: int = 4
    ) -> None:
        assert self.hub is not None
        fingerprint = self.model.checkpoint.fingerprint
        requests = [
            generation_request(listener.name(number), max_new_tokens=max_new_tokens)
            for number in numbers
        ]
        opened = [
            Opened(listener, number, client, request, fingerprint)
            for number, request in zip(numbers, requests, strict=True)
        ]
        self.hub.submit(self.model, opened)

    def num_open(self) -> int:
        assert self.hub is not None
        return self.hub.num_open_on(self.model)


def test_each_process_gets_one_frame_a_step_with_its_own_events() -> None:
    bench, listeners = Bench(), [Listener("a"), Listener("b")]
    for listener in listeners:
        bench.submit(listener, [1, 2])
    assert bench.num_open() == 4
    bench.worker.start()
    wait_until(lambda: all(len(one.ends()) == 2 for one in listeners), "all end")
    bench.worker.stop()
    assert bench.num_open() == 0
    first, second = ([*itertools.chain(*one.turns())] for one in listeners)
    for listener, events in zip(listeners, (first, second), strict=True):
        assert {event.request_id[0] for event in events} == {listener.prefix}
        assert max(len(turn) for turn in listener.turns()) > 1, "a step's events share a frame"
    tokens = [
        [e.token_id for e in events if isinstance(e, TokenGenerated)] for events in (first, second)
    ]
    assert len(tokens[0]) == 8
    assert tokens[0] == tokens[1]


def test_limits_hold_over_all_processes_together_and_for_all_or_none() -> None:
    bench, one, other = Bench(num_slots=2, max_waiting_requests=2), Listener("a"), Listener("b")
    bench.submit(one, [1, 2, 3])
    with pytest.raises(QueueFull):
        bench.submit(other, [1, 2])
    bench.submit(other, [3])
    with pytest.raises(QueueFull):
        bench.submit(one, [4])
    assert bench.num_open() == 4
    bench.worker.start()
    wait_until(lambda: bench.num_open() == 0, "all end")
    bench.submit(other, [5, 6])
    bench.worker.stop()


def test_a_clients_share_holds_over_all_processes() -> None:
    bench = Bench(max_requests_per_client=2)
    bench.submit(Listener("a"), [1], client="x")
    bench.submit(Listener("b"), [1], client="x")
    with pytest.raises(TooManyRequests):
        bench.submit(Listener("c"), [1], client="x")
    bench.submit(Listener("c"), [2], client="y")


def test_requests_of_a_process_that_is_gone_are_ended_and_counted() -> None:
    bench, gone, other = Bench(), Listener("a"), Listener("b")
    bench.submit(gone, [1, 2], max_new_tokens=200)
    bench.submit(other, [1])
    gone.is_open = False
    assert bench.hub is not None
    bench.hub.abort_all_of(gone)
    bench.worker.start()
    wait_until(lambda: bench.num_open() == 0, "all end")
    bench.worker.stop()
    assert [end.reason for end in gone.ends()] == [FinishReason.ABORT] * 2
    assert [end.reason for end in other.ends()] == [FinishReason.LENGTH]
    text = bench.metrics.exposition().decode()
    assert 'nestling_requests_total{outcome="abort"} 2.0' in text
    assert "nestling_e2e_request_latency_seconds_count 2.0" in text
    assert 'nestling_requests_total{outcome="length"} 0.0' in text, "its own process counts it"


def test_an_event_that_cannot_be_written_ends_its_request_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, listener = Bench(), Listener("a")
    add = TurnWriter.add

    def odd(self: TurnWriter, number: int, event: Event) -> None:
        if number == 1 and isinstance(event, TokenGenerated):
            raise OverflowError("no room")
        add(self, number, event)

    monkeypatch.setattr(TurnWriter, "add", odd)
    bench.worker.start()
    bench.worker.flip(bench.model)
    bench.submit(listener, [1, 2], max_new_tokens=40)
    wait_until(lambda: len(listener.ends()) == 2, "both end")
    bench.worker.stop()
    reasons = {end.request_id: end.reason for end in listener.ends()}
    assert reasons == {"a1": FinishReason.ERROR, "a2": FinishReason.LENGTH}
