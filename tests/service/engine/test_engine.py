"""The engine against the slow reference generator, token for token, in float64."""

import dataclasses
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import generation_request, reference_ids, toy_engine
from toys import toy_config, toy_decoder, toy_tokenizer

from lm.model.decoder import Decoder
from lm.text.tokenizer import Tokenizer
from service.engine.engine import Engine
from service.engine.request import (
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    Started,
    StepStats,
    TokenGenerated,
)

CONTEXT = 40
EOS_TOKEN_IDS = (0, 17, 101, 202, 290)
"""Several, so that random weights end some answers by themselves."""


@functools.cache
def decoder(positions: str = "rope") -> Decoder:
    small = {"hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": CONTEXT}
    return toy_decoder(1, toy_config(positions=positions, **small)).double()


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer(toy_tokenizer().backend, bos_token_id=0, eos_token_ids=EOS_TOKEN_IDS)


@functools.cache
def expected_ids(request: GenerationRequest) -> tuple[int, ...]:
    return tuple(reference_ids(decoder(), request, EOS_TOKEN_IDS))


def expected_answer(request: GenerationRequest) -> tuple[tuple[int, ...], str, FinishReason]:
    """Tokens, text and reason of a request that is left alone."""
    token_ids = expected_ids(dataclasses.replace(request, request_id="", stop=()))
    for count in range(1, len(token_ids) + 1):
        text = tokenizer().decode(token_ids[:count])
        ends = [text.index(stop) for stop in request.stop if stop in text]
        if ends:
            return token_ids[:count], text[: min(ends)], FinishReason.STOP
    is_full = len(token_ids) == min(request.max_new_tokens, CONTEXT - len(request.prompt_ids))
    reason = FinishReason.LENGTH if is_full else FinishReason.STOP
    return token_ids, tokenizer().decode(token_ids), reason


@dataclasses.dataclass(frozen=True)
class Job:
    """A request, when it arrives and when its client leaves, in steps."""

    request: GenerationRequest
    arrives: int
    leaves: int | None


STEM = tuple(range(40, 70))
"""What prompts of several jobs begin with, so that there is something to reuse."""

PROMPTS = st.one_of(
    st.lists(st.integers(0, 299), min_size=1, max_size=CONTEXT - 1).map(tuple),
    st.builds(
        lambda length, tail: STEM[:length] + tuple(tail),
        st.integers(1, len(STEM)),
        st.lists(st.integers(0, 299), max_size=CONTEXT - 1 - len(STEM)),
    ),
)

JOBS = st.builds(
    lambda arrives, leaves, **request: Job(generation_request(**request), arrives, leaves),
    arrives=st.integers(0, 12),
    leaves=st.one_of(st.none(), st.none(), st.integers(0, 30)),
    prompt_ids=PROMPTS,
    max_new_tokens=st.integers(1, 12),
    temperature=st.sampled_from([0.0, 0.0, 0.8, 2.0]),
    top_k=st.sampled_from([0, 3, 40]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    seed=st.integers(0, 3),
    stop=st.sampled_from([(), (), ("e",), ("th", "ou")]),
)


def run(engine: Engine, jobs: list[Job]) -> dict[str, list[Event]]:
    """Let requests arrive and leave; returns each one's events."""
    events: dict[str, list[Event]] = {str(number): [] for number in range(len(jobs))}
    for step in range(2000):
        happened: list[Event] = []
        for number, job in enumerate(jobs):
            if job.arrives == step:
                engine.submit(dataclasses.replace(job.request, request_id=str(number)))
        for number, job in enumerate(jobs):
            if job.leaves is not None and max(job.leaves, job.arrives) == step:
                happened += engine.finish(str(number), FinishReason.ABORT)
        happened += engine.step()
        engine.check_integrity()
        for event in happened:
            events[event.request_id].append(event)
        if engine.is_idle and all(job.arrives <= step for job in jobs):
            return events
    raise AssertionError("the engine does not come to an end")


def check(job: Job, events: list[Event]) -> None:
    """One request's events are a possible story, and the reference's."""
    *before, last = events
    assert isinstance(last, Finished)
    started = [event for event in before if isinstance(event, Started)]
    tokens = [event for event in before if isinstance(event, TokenGenerated)]
    assert len(started) + len(tokens) == len(before), "one end alone"
    assert started == before[:1], "started once and first"
    token_ids, text, reason = expected_answer(job.request)
    got_ids = tuple(event.token_id for event in tokens)
    got_text = "".join([event.text for event in tokens]) + last.text
    if last.reason is FinishReason.ABORT:
        assert job.leaves is not None
        assert got_ids == token_ids[: len(got_ids)]
    else:
        assert (got_ids, got_text, last.reason) == (token_ids, text, reason)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    jobs=st.lists(JOBS, min_size=1, max_size=7),
    num_slots=st.integers(1, 5),
    extra_step_tokens=st.integers(1, 24),
    reuse_prefixes=st.booleans(),
    speculation=st.booleans(),
)
def test_any_mix_of_requests_gives_what_the_reference_gives(
    jobs: list[Job],
    num_slots: int,
    extra_step_tokens: int,
    reuse_prefixes: bool,
    speculation: bool,
) -> None:
    engine = toy_engine(
        decoder(),
        tokenizer=tokenizer(),
        num_slots=num_slots,
        max_step_tokens=num_slots + extra_step_tokens,
        reuse_prefixes=reuse_prefixes,
        speculation=speculation,
    )
    events = run(engine, jobs)
    for number, job in enumerate(jobs):
        check(job, events[str(number)])
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_cached_tokens) == (0, 0, 0)
    assert engine._scheduler._slots.num_free == num_slots


def test_learned_positions_give_what_the_reference_gives() -> None:
    learned = decoder("learned")
    engine = toy_engine(learned, tokenizer=tokenizer(), num_slots=2, max_step_tokens=5)
    jobs = [
        Job(generation_request("", tuple(range(9, 9 + length)), max_new_tokens=9), length, None)
        for length in (1, 3, 8, 14)
    ]
    events = run(engine, jobs)
    for number, job in enumerate(jobs):
        got = [e.token_id for e in events[str(number)] if isinstance(e, TokenGenerated)]
        assert got == reference_ids(learned, job.request, EOS_TOKEN_IDS)


def test_a_request_may_go_on_to_the_end_of_the_context() -> None:
    request = generation_request("a", (5,) * (CONTEXT - 3), max_new_tokens=100)
    engine = toy_engine(decoder(), num_slots=1)
    engine.submit(request)
    events = [event for _ in range(10) for event in engine.step()]
    assert sum(isinstance(event, TokenGenerated) for event in events) == 3
    assert events[-1] == Finished("a", FinishReason.LENGTH)


def test_a_deadline_ends_requests_in_queue_and_slot() -> None:
    engine = toy_engine(decoder(), num_slots=1, max_step_tokens=2)
    for name, deadline in (("running", 5.0), ("waiting", 6.0), ("patient", None)):
        engine.submit(generation_request(name, (5, 6), max_new_tokens=30, deadline=deadline))
    engine.step()
    assert engine.expire(4.9) == []
    assert [(e.request_id, e.reason) for e in engine.expire(5.0)] == [
        ("running", FinishReason.TIMEOUT)
    ]
    assert [e.request_id for e in engine.expire(10.0)] == ["waiting"]
    assert [event.request_id for event in engine.step()][:1] == ["patient"]


def test_finishing_a_stranger_is_nothing() -> None:
    assert toy_engine().finish("nobody", FinishReason.ABORT) == []


def test_finish_all_empties_queue_and_slots() -> None:
    engine = toy_engine(decoder(), num_slots=1)
    for name in "abc":
        engine.submit(generation_request(name, (5, 6)))
    engine.step()
    ended = engine.finish_all(FinishReason.ERROR, "why")
    assert [(e.request_id, e.reason, e.message) for e in ended] == [
        (name, FinishReason.ERROR, "why") for name in "abc"
    ]
    assert engine.is_idle
    engine.check_integrity()
    assert engine.step() == []


@pytest.mark.parametrize("reason", [FinishReason.ABORT, FinishReason.TIMEOUT, FinishReason.ERROR])
def test_who_is_ended_from_outside_has_not_stopped_by_itself(reason: FinishReason) -> None:
    """Even if half a character, sent as a replacement at the end, completes a stop string."""
    engine = toy_engine(decoder(), num_slots=1)
    engine.submit(generation_request("a", (5, 6), stop=("\N{REPLACEMENT CHARACTER}",)))
    next(iter(engine._scheduler.waiting)).text.push(toy_tokenizer().encode("🙂")[0])
    assert [(e.reason, e.text) for e in engine.finish("a", reason)] == [(reason, "")]


def test_statistics_say_what_the_step_did_and_what_is_left() -> None:
    engine = toy_engine(decoder(), num_slots=2, max_step_tokens=6)
    assert engine.stats() == StepStats(cache_capacity=2 * CONTEXT)
    for name, length in (("a", 4), ("b", 5), ("c", 3)):
        engine.submit(generation_request(name, (5,) * length, max_new_tokens=8))
    engine.step()
    assert engine.stats() == StepStats(
        num_running=2,
        num_waiting=1,
        batch_size=2,
        num_tokens=6,
        num_cached_tokens=6,
        cache_capacity=2 * CONTEXT,
    )


def test_warming_up_leaves_no_trace() -> None:
    engine = toy_engine(decoder(), tokenizer=tokenizer(), num_slots=2, max_step_tokens=8)
    engine.warm_up()
    assert engine.is_idle
    engine.check_integrity()
    job = Job(generation_request("", (5, 6, 7), max_new_tokens=6), 0, None)
    check(job, run(engine, [job])["0"])


@pytest.mark.parametrize("context", [2, 3, 8, 9])
def test_the_smallest_contexts_warm_up_too(context: int) -> None:
    engine = toy_engine(toy_decoder(0, toy_config(max_position_embeddings=context)))
    engine.warm_up()
    assert engine.is_idle


def started(events: list[Event]) -> dict[str, int]:
    """Who began, and how much of the prompt needed not be computed."""
    return {event.request_id: event.num_reused for event in events if isinstance(event, Started)}


def finish(engine: Engine) -> list[Event]:
    events = []
    while not engine.is_idle:
        events += engine.step()
    return events


def test_the_next_turn_of_a_chat_reuses_its_history_and_says_the_same() -> None:
    engine = toy_engine(decoder(), num_slots=3)
    history = (5, 6, 7, 8, 9, 10)
    for turn in range(3):
        request = generation_request(str(turn), history, max_new_tokens=5)
        engine.submit(request)
        events = finish(engine)
        answer = tuple(event.token_id for event in events if isinstance(event, TokenGenerated))
        assert answer == expected_ids(dataclasses.replace(request, request_id=""))
        assert started(events) == {str(turn): 0 if turn == 0 else len(history) - 4}
        history = (*history, *answer, 11 + turn, 12, 13)


def test_what_a_slot_keeps_is_what_computing_it_gives() -> None:
    """The conservation law of contents: keys and values belong to the tokens that are noted."""
    engine = toy_engine(decoder(), tokenizer=tokenizer(), num_slots=3, max_step_tokens=9)
    stems = [(*STEM[:length], 200 + length, 99) for length in (20, 7, 20, 30, 13, 2, 30, 7, 20)]
    for number, prompt_ids in enumerate(stems):
        engine.submit(generation_request(str(number), prompt_ids, max_new_tokens=4))
        engine.step()
        if number == 4:
            engine.finish("3", FinishReason.ABORT)
    finish(engine)
    cache = engine._runner.cache
    for slot, token_ids in engine._scheduler._slots._free.items():
        fresh = toy_engine(decoder(), num_slots=1, max_step_tokens=64)
        fresh.submit(generation_request("", token_ids, max_new_tokens=1))
        finish(fresh)
        again = fresh._runner.cache
        assert len(token_ids) > 2
        for kept, expected in ((cache.key, again.key), (cache.value, again.value)):
            torch.testing.assert_close(
                kept[:, slot, :, : len(token_ids)],
                expected[:, 0, :, : len(token_ids)],
                rtol=0,
                atol=1e-12,
            )


def test_no_engine_knows_what_another_has_computed() -> None:
    """Engines are versions of the weights: a prefix never crosses one."""
    first, second = toy_engine(decoder()), toy_engine(decoder())
    for engine in (first, first, second):
        engine.submit(generation_request("a", (5, 6, 7, 8)))
        events = finish(engine)
    assert started(events) == {"a": 0}
