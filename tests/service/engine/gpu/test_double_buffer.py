"""Two models over one cache and two sets of weight buffers."""

import dataclasses
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from serving import generation_request, reference_ids, toy_served
from serving.engines import pieces
from serving.manual_worker import Desk
from serving.plain_kernels import PlainKernels, PlainSampler
from toys import toy_config, toy_decoder, toy_tokenizer

from lm.model.decoder import Decoder
from service.engine.gpu.buffers.cache import GpuCache
from service.engine.gpu.buffers.weight_set import WeightSet
from service.engine.gpu.double_buffer import DoubleBuffer, NoFreeSet
from service.engine.gpu.placing import slots_that_fit
from service.engine.gpu.runner import GpuRunner
from service.engine.overlapped import OverlappedEngine
from service.engine.request import (
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    Started,
    TokenGenerated,
)

CONFIG = toy_config(hidden_size=32, intermediate_size=48, max_position_embeddings=64)
STEP_TOKENS = 24


def decoder(seed: int) -> Decoder:
    return toy_decoder(seed, CONFIG).double()


class Buffers:
    """A double buffer on a CPU, which counts what is recorded."""

    def __init__(self, num_slots: int = 2) -> None:
        self.num_recorded = 0
        self._cache = GpuCache(
            CONFIG,
            num_slots=num_slots,
            max_tokens=CONFIG.max_position_embeddings,
            dtype=torch.float64,
            device=torch.device("cpu"),
        )
        self.both = DoubleBuffer(self._cache, self._make_set)

    def _make_set(self) -> WeightSet:
        return WeightSet(
            CONFIG,
            self._cache.tensors,
            num_slots=self._cache.num_slots,
            max_step_tokens=STEP_TOKENS,
            kernels=PlainKernels(),
            sampler=PlainSampler(),
            record=self._record,
        )

    def _record(self, compute: Callable[[], None]) -> Callable[[], None]:
        self.num_recorded += 1
        compute()
        return compute

    def runner(self, seed: int) -> GpuRunner:
        return self.both.runner(pieces(decoder(seed), torch.float64))

    def engine(self, seed: int) -> OverlappedEngine:
        return OverlappedEngine(self.runner(seed), toy_tokenizer(), max_step_tokens=STEP_TOKENS)


def ask(name: str, *, length: int = 5, max_new_tokens: int = 6) -> GenerationRequest:
    return generation_request(name, tuple(range(20, 20 + length)), max_new_tokens=max_new_tokens)


def finish(*engines: OverlappedEngine) -> list[Event]:
    """Step engines in turns, as the worker does, until all are idle."""
    events: list[Event] = []
    for _ in range(500):
        for engine in engines:
            events += engine.step()
            engine.check_integrity()
        if all(engine.is_idle for engine in engines):
            return events
    raise AssertionError("the engines do not come to an end")


def tokens(events: list[Event], name: str) -> list[int]:
    return [
        event.token_id
        for event in events
        if isinstance(event, TokenGenerated) and event.request_id == name
    ]


def test_two_models_serve_at_once_and_each_says_what_it_says_alone() -> None:
    buffers = Buffers(num_slots=3)
    old, new = buffers.engine(1), buffers.engine(2)
    requests = {}
    for number in range(8):
        for seed, engine in ((1, old), (2, new)):
            request = ask(f"{seed}-{number}", length=3 + number, max_new_tokens=3 + number % 3)
            requests[request.request_id] = (seed, request)
            engine.submit(request)
    events = finish(old, new)
    for name, (seed, request) in requests.items():
        assert tokens(events, name) == reference_ids(decoder(seed), request), name
    assert sum(isinstance(event, Finished) for event in events) == len(requests)


def test_slots_are_shared_but_no_prefix_crosses_to_other_weights() -> None:
    buffers = Buffers(num_slots=1)
    old, new = buffers.engine(1), buffers.engine(2)
    reused = {}
    for name, engine in (("old", old), ("again", old), ("new", new), ("old later", old)):
        engine.submit(ask(name))
        events = finish(engine)
        reused |= {e.request_id: e.num_reused for e in events if isinstance(e, Started)}
        seed = 2 if engine is new else 1
        assert tokens(events, name) == reference_ids(decoder(seed), ask(name))
    assert reused == {"old": 0, "again": 4, "new": 0, "old later": 0}


def test_a_running_model_keeps_its_sibling_waiting_and_not_for_ever() -> None:
    buffers = Buffers(num_slots=1)
    old, new = buffers.engine(1), buffers.engine(2)
    old.submit(ask("first"))
    old.submit(ask("second"))
    old.step()
    new.submit(ask("newcomer"))
    assert new.step() == []
    assert (new.stats().num_waiting, new.stats().batch_size, new.is_idle) == (1, 0, False)
    events = finish(old, new)
    ends = [event.request_id for event in events if isinstance(event, Finished)]
    assert ends == ["first", "newcomer", "second"], "a slot that one gives back is the other's"
    assert tokens(events, "newcomer") == reference_ids(decoder(2), ask("newcomer"))


def test_a_worker_takes_no_more_turns_for_a_model_that_waits_for_a_slot() -> None:
    buffers, desk = Buffers(num_slots=1), Desk()
    desk.worker.start()
    old, new = toy_served(buffers.engine(1), step=1), toy_served(buffers.engine(2), step=2)
    try:
        desk.worker.submit(old, ask("long", max_new_tokens=40))
        desk.worker.submit(new, ask("short"))
        assert desk.end("long").reason is desk.end("short").reason is FinishReason.LENGTH
    finally:
        desk.worker.stop()
    capacity = CONFIG.max_position_embeddings
    both = {turn.stats.cache_capacity for turn in desk.turns if turn.stats.num_waiting}
    assert both == {capacity}, "a cache that two models share counts once"
    assert desk.token_ids("short") == reference_ids(decoder(2), ask("short"))
    assert desk.token_ids("long") == reference_ids(decoder(1), ask("long", max_new_tokens=40))
    assert len(desk.turns) < 40 + 6 + 12


def test_a_swap_records_nothing() -> None:
    buffers = Buffers()
    recorded = buffers.num_recorded
    assert recorded > 0
    engine = buffers.engine(1)
    for seed in (2, 3, 4):
        engine.submit(ask("a"))
        newer = buffers.engine(seed)
        newer.submit(ask("b"))
        events = finish(engine, newer)
        assert tokens(events, "b") == reference_ids(decoder(seed), ask("b"))
        engine = newer
    assert buffers.num_recorded == recorded


def test_a_third_model_waits_for_a_set() -> None:
    buffers = Buffers()
    assert len(buffers.both._idle) == 2
    engines = [buffers.engine(1), buffers.engine(2)]
    assert len(buffers.both._idle) < 2
    with pytest.raises(NoFreeSet, match="all 2 sets of weights on the GPU are in use"):
        buffers.runner(3)
    gone = weakref.ref(engines.pop(0))
    gc.collect()
    assert gone() is None
    third = buffers.engine(3)
    third.submit(ask("a"))
    assert tokens(finish(third, *engines), "a") == reference_ids(decoder(3), ask("a"))


def test_an_engine_that_is_dropped_with_a_step_in_flight_gives_its_set_back() -> None:
    buffers = Buffers(num_slots=1)
    engine, other = buffers.engine(1), buffers.engine(2)
    engine.submit(ask("a"))
    engine.step()
    engine.finish_all(FinishReason.ABORT)
    assert engine._in_flight is not None
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None
    newer = buffers.engine(3)
    newer.submit(ask("b"))
    other.submit(ask("c"))
    events = finish(newer, other)
    assert tokens(events, "b") == reference_ids(decoder(3), ask("b"))
    assert tokens(events, "c") == reference_ids(decoder(2), ask("c"))


def test_weights_that_do_not_fit_leave_the_set_free() -> None:
    buffers = Buffers()
    engine = buffers.engine(1)
    wrong = toy_decoder(2, dataclasses.replace(CONFIG, intermediate_size=64)).double()
    for _ in range(3):
        with pytest.raises(ValueError, match="weights do not fit the config"):
            buffers.both.runner(pieces(wrong, torch.float64))
    newer = buffers.engine(2)
    for name, served, seed in (("a", engine, 1), ("b", newer, 2)):
        served.submit(ask(name))
        assert tokens(finish(served), name) == reference_ids(decoder(seed), ask(name))


def test_a_model_is_tried_out_in_a_slot_that_no_sequence_gets() -> None:
    buffers = Buffers(num_slots=2)
    old, new = buffers.engine(1), buffers.engine(2)
    old.submit(ask("a", max_new_tokens=20))
    old.submit(ask("b", max_new_tokens=20))
    events = [event for _ in range(5) for event in old.step()]
    new.warm_up()
    trial = new.alone()
    assert isinstance(trial, OverlappedEngine)
    trial.submit(ask("trial"))
    assert tokens(finish(trial), "trial") == reference_ids(decoder(2), ask("trial"))
    events += finish(old)
    for name in "ab":
        expected = reference_ids(decoder(1), ask(name, max_new_tokens=20))
        assert tokens(events, name) == expected


@pytest.mark.parametrize(
    ("free_bytes", "fixed_bytes", "expected"),
    [(10**9, 0, 256), (1100, 100, 9), (1000, 1000, 1), (100, 5000, 1), (100 + 2571, 100, 23)],
)
def test_slots_that_fit(free_bytes: int, fixed_bytes: int, expected: int) -> None:
    fitting = slots_that_fit(
        wanted=256, slot_bytes=100, free_bytes=free_bytes, fixed_bytes=fixed_bytes, share=0.9
    )
    assert fitting == expected
