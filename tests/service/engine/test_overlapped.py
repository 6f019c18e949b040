"""An engine whose device runs a step ahead against the one that is in step with it.

What each kind of request gets alone, in step, is what it has to get beside any others, a step late.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import engines, generation_request, overlapped_engine
from toys import toy_config, toy_decoder, toy_tokenizer
from toys.properties import examples

from lm.model.decoder import Decoder
from lm.text.tokenizer import Tokenizer
from service.engine.engine import Engine
from service.engine.overlapped import OverlappedEngine
from service.engine.request import (
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    PromptScored,
    Started,
    TokenGenerated,
    TokenScore,
)
from service.engine.scheduling.plan import Plan
from service.engine.structure.constraint import regex_grammar

CONTEXT = 40
EOS_TOKEN_IDS = (0, 17, 101, 202, 290)
STEM = tuple(range(40, 60))
COPYING = (7, 8, 9, 10) * 4
"""A prompt that guesses continue."""

KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.9, "seed": 3},
    {"temperature": 2.0, "top_k": 30, "top_p": 0.8, "seed": 5},
    {"min_new_tokens": 6},
    {"logprobs": 2},
    {"logprobs": 0, "temperature": 1.5, "seed": 1},
    {"prompt_logprobs": 1},
    {"prompt_logprobs": 0, "logprobs": 0, "repetition_penalty": 1.4},
    {"grammar": regex_grammar("[a-c]{3}-[0-9]{2,4}"), "temperature": 1.5, "seed": 2},
    {"frequency_penalty": 0.7, "logit_bias": ((17, 2.0),)},
    {"stop": ("e",), "include_stop": True},
    {"stop_token_ids": tuple(range(250)), "include_stop": True},
    {"ignore_eos": True},
)


def ask(kind: int, prompt_ids: tuple[int, ...], max_new_tokens: int) -> GenerationRequest:
    """A request of one of the kinds."""
    names = {field.name for field in dataclasses.fields(GenerationRequest)}
    ours = {name: value for name, value in KINDS[kind].items() if name in names}
    sampling = {name: value for name, value in KINDS[kind].items() if name not in names}
    request = generation_request("", prompt_ids, max_new_tokens=max_new_tokens, **sampling)
    return dataclasses.replace(request, **ours)


@functools.cache
def decoder() -> Decoder:
    small = {"hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": CONTEXT}
    return toy_decoder(1, toy_config(**small)).double()


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer(toy_tokenizer().backend, bos_token_id=0, eos_token_ids=EOS_TOKEN_IDS)


def engine(**options: Any) -> OverlappedEngine:
    made = overlapped_engine(decoder(), tokenizer=tokenizer(), **options)
    assert isinstance(made, OverlappedEngine)
    return made


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of a request."""

    token_ids: tuple[int, ...]
    text: str
    scores: tuple[TokenScore | None, ...]
    prompt_scores: tuple[TokenScore, ...]
    reason: FinishReason

    @classmethod
    def of(cls, events: list[Event]) -> "Answer":
        """From a request's events, which have to be a possible story."""
        *before, last = events
        assert isinstance(last, Finished)
        assert not any(event.is_final for event in before), "one end alone"
        started = [event for event in before if isinstance(event, Started)]
        assert started == before[:1], "started once and first"
        tokens = [event for event in before if isinstance(event, TokenGenerated)]
        scored = [event for event in before if isinstance(event, PromptScored)]
        assert len(scored) <= 1
        return cls(
            tuple(event.token_id for event in tokens),
            "".join(event.text for event in tokens) + last.text,
            tuple(event.score for event in tokens),
            scored[0].scores if scored else (),
            last.reason,
        )

    def check(self, whole: "Answer") -> None:
        """It is the same; the beginning of it if it was ended from outside."""
        if self.reason in (FinishReason.ABORT, FinishReason.TIMEOUT, FinishReason.ERROR):
            count = len(self.token_ids)
            assert self.token_ids == whole.token_ids[:count]
            assert whole.text.startswith(self.text.rstrip("\N{REPLACEMENT CHARACTER}"))
            same(self.scores, whole.scores[:count])
            return
        assert (self.token_ids, self.text, self.reason) == (
            whole.token_ids, whole.text, whole.reason,
        )  # fmt: skip
        same(self.scores, whole.scores)
        same(self.prompt_scores, whole.prompt_scores)


def same(found: tuple[TokenScore | None, ...], expected: tuple[TokenScore | None, ...]) -> None:
    """Scores of the same tokens, within rounding."""
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.token_id == other.token_id
            assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
            assert [token for token, _ in one.top] == [token for token, _ in other.top]


@functools.cache
def alone(request: GenerationRequest) -> Answer:
    """What a request gets alone from the engine that is in step."""
    served = engines.toy_engine(
        decoder(), tokenizer=tokenizer(), num_slots=1, max_step_tokens=64, speculation=False
    )
    served.submit(request)
    events: list[Event] = []
    while not served.is_idle:
        events += served.step()
    return Answer.of(events)


@dataclasses.dataclass(frozen=True)
class Job:
    """A request, and by step when it arrives, when its client leaves and when its time is up."""

    request: GenerationRequest
    arrives: int
    leaves: int | None
    expires: int | None


PROMPTS = st.one_of(
    st.lists(st.integers(0, 299), min_size=1, max_size=CONTEXT - 1).map(tuple),
    st.integers(1, len(STEM)).map(lambda length: STEM[:length]),
    st.just(COPYING),
)
NEVER_OR_SOON = st.one_of(st.none(), st.none(), st.integers(0, 25))
JOBS = st.builds(
    lambda kind, prompt_ids, length, arrives, leaves, expires: Job(
        ask(kind, prompt_ids, length), arrives, leaves, expires
    ),
    st.integers(0, len(KINDS) - 1),
    PROMPTS,
    st.integers(1, 12),
    st.integers(0, 12),
    NEVER_OR_SOON,
    NEVER_OR_SOON,
)


def run(served: Engine, jobs: list[Job], first: int = 0) -> dict[str, list[Event]]:
    """Let requests arrive, leave and expire; returns each one's events."""
    names = [str(first + number) for number in range(len(jobs))]
    events: dict[str, list[Event]] = {name: [] for name in names}
    for step in range(2000):
        happened: list[Event] = []
        for name, job in zip(names, jobs, strict=True):
            if job.arrives == step:
                deadline = None if job.expires is None else float(job.expires)
                served.submit(dataclasses.replace(job.request, request_id=name, deadline=deadline))
            if job.leaves is not None and max(job.leaves, job.arrives) == step:
                happened += served.finish(name, FinishReason.ABORT)
        happened += served.expire(float(step))
        happened += served.step()
        served.check_integrity()
        for event in happened:
            events[event.request_id].append(event)
        if served.is_idle and all(job.arrives <= step for job in jobs):
            return events
    raise AssertionError("the engine does not come to an end")


def check(jobs: list[Job], events: dict[str, list[Event]], first: int = 0) -> None:
    for number, job in enumerate(jobs):
        story = events[str(first + number)]
        last = story[-1]
        assert isinstance(last, Finished)
        if len(story) == 1:  # ended in the queue
            assert last.reason in (FinishReason.ABORT, FinishReason.TIMEOUT)
            continue
        if last.reason is FinishReason.ABORT:
            assert job.leaves is not None
        if last.reason is FinishReason.TIMEOUT:
            assert job.expires is not None
        Answer.of(story).check(alone(job.request))


@examples(60)
@given(
    jobs=st.lists(JOBS, min_size=1, max_size=7),
    num_slots=st.integers(1, 5),
    extra_step_tokens=st.integers(1, 24),
    reuse_prefixes=st.booleans(),
    speculation=st.booleans(),
)
def test_any_mix_of_requests_gives_each_what_it_gets_alone(
    jobs: list[Job],
    num_slots: int,
    extra_step_tokens: int,
    reuse_prefixes: bool,
    speculation: bool,
) -> None:
    served = engine(
        num_slots=num_slots,
        max_step_tokens=num_slots + extra_step_tokens,
        reuse_prefixes=reuse_prefixes,
        speculation=speculation,
    )
    check(jobs, run(served, jobs))
    assert served._scheduler._slots.num_free == num_slots


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=lambda kind: str(KINDS[kind])[:40])
@pytest.mark.parametrize("prompt_ids", [COPYING, STEM, (5,)], ids=["copying", "stem", "one"])
def test_every_kind_beside_plain_streams(kind: int, prompt_ids: tuple[int, ...]) -> None:
    """One that is read before it goes on holds up nobody else."""
    jobs = [
        Job(ask(0, STEM[:7], 12), 0, None, None),
        Job(ask(kind, prompt_ids, 12), 1, None, None),
        Job(ask(1, STEM[:9], 12), 2, None, None),
    ]
    check(jobs, run(engine(num_slots=3, max_step_tokens=24), jobs))


def test_plain_streams_get_a_token_a_step_beside_one_that_is_read_first() -> None:
    served = engine(num_slots=2, max_step_tokens=40, speculation=False)
    grammar = ask(8, STEM, 12)
    served.submit(dataclasses.replace(grammar, request_id="held"))
    plain = dataclasses.replace(ask(12, STEM[:5], 12), request_id="plain")
    served.submit(plain)
    served.step()
    counts = [sum(event.request_id == "plain" for event in served.step()) for _ in range(8)]
    assert counts == [1] * 8


def test_a_step_in_flight_for_a_sequence_that_has_ended_is_nobodys() -> None:
    """The engine is idle with a step in flight; what comes of it is dropped, however late."""
    served = engine(num_slots=1, speculation=False)
    stopping = dataclasses.replace(ask(11, STEM[:5], 12), request_id="first")
    served.submit(stopping)
    events: list[Event] = []
    while not served.is_idle:
        events += served.step()
    assert Answer.of(events).reason is FinishReason.STOP
    assert served._in_flight is not None, "it was launched before the stop was seen"
    newcomer = dataclasses.replace(ask(0, STEM[:5], 5), request_id="second")
    served.submit(newcomer)
    events = served.step()
    assert [type(event) for event in events] == [Started]
    while not served.is_idle:
        events += served.step()
    assert {event.request_id for event in events} == {"second"}
    Answer.of(events).check(alone(ask(0, STEM[:5], 5)))


def test_a_slot_goes_to_a_newcomer_while_its_last_step_is_in_flight() -> None:
    for leaves in range(1, 9):
        jobs = [
            Job(ask(2, STEM[:6], 12), 0, leaves, None),
            Job(ask(1, STEM[:6], 8), leaves, None, None),
            Job(ask(0, STEM[:4], 8), leaves, None, None),
        ]
        check(jobs, run(engine(num_slots=1, max_step_tokens=9), jobs))


def test_a_prefix_is_copied_as_far_as_it_is_known() -> None:
    """A newcomer goes on from a running sequence whose last token is still on the device."""
    whole = alone(ask(12, STEM[:6], 12)).token_ids
    for arrives in range(1, 10):
        follower = Job(ask(4, (*STEM[:6], *whole[:8]), 6), arrives, None, None)
        jobs = [Job(ask(12, STEM[:6], 12), 0, None, None), follower]
        check(jobs, run(engine(num_slots=2, max_step_tokens=30), jobs))


def test_ending_all_with_a_step_in_flight_leaves_room_for_others() -> None:
    for steps in range(6):
        served = engine(num_slots=2, max_step_tokens=9)
        for number in range(4):
            served.submit(dataclasses.replace(ask(number, STEM[:5], 9), request_id=f"x{number}"))
        for _ in range(steps):
            served.step()
        ended = served.finish_all(FinishReason.ABORT)
        assert served.is_idle
        assert len({event.request_id for event in ended}) == len(ended)
        jobs = [Job(ask(number, STEM[:8], 6), 0, None, None) for number in range(4)]
        check(jobs, run(served, jobs))


class Breaking:
    """Breaks one call of a runner, or the collecting of one of its plans, until it is mended."""

    def __init__(self, served: OverlappedEngine, at: int, *, collects: bool) -> None:
        self._launch, self._collects = served._device.launch, collects
        self._left = at
        self._launched: Any = None
        self.is_mended = False
        served._device.launch = self.launch  # type: ignore[method-assign]

    def launch(self, plan: Plan) -> Any:
        """What a runner does, or not."""
        self._left -= 1
        if self._left or self.is_mended:
            return self._launch(plan)
        if self._collects:
            self._launched = self._launch(plan)
            return self
        raise RuntimeError("out of memory")

    def collect(self) -> Any:
        """The device has computed it, but the host does not hear of it."""
        if self.is_mended:
            return self._launched.collect()
        raise RuntimeError("out of memory")


def broken_off(served: Engine, jobs: list[Job]) -> Iterator[Event]:
    """Serve until a step fails; then everything that is open ends."""
    for number, job in enumerate(jobs):
        served.submit(dataclasses.replace(job.request, request_id=str(number)))
    while not served.is_idle:
        try:
            yield from served.step()
        except RuntimeError:
            yield from served.finish_all(FinishReason.ERROR)
        served.check_integrity()


@examples(40)
@given(
    jobs=st.lists(JOBS, min_size=1, max_size=5),
    at=st.integers(1, 12),
    collects=st.booleans(),
    num_slots=st.integers(1, 3),
)
def test_a_step_that_fails_ends_what_is_open_and_nothing_else(
    jobs: list[Job], at: int, collects: bool, num_slots: int
) -> None:
    served = engine(num_slots=num_slots, max_step_tokens=num_slots + 9)
    breaking = Breaking(served, at, collects=collects)
    stories: dict[str, list[Event]] = {str(number): [] for number in range(len(jobs))}
    for event in broken_off(served, jobs):
        stories[event.request_id].append(event)
    for number, job in enumerate(jobs):
        story = stories[str(number)]
        assert sum(event.is_final for event in story) == 1
        if isinstance(story[0], Started):  # what was to tell of the start may have failed
            Answer.of(story).check(alone(job.request))
    breaking.is_mended = True
    again = [dataclasses.replace(job, arrives=0, leaves=None, expires=None) for job in jobs]
    check(again, run(served, again, first=100), first=100)
