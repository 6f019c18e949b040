"""A fault of one row ends its request alone, wherever it happens; the others' tokens stay."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from serving import generation_request, overlapped_engine, toy_engine
from toys import toy_decoder

import service.engine.sampling.rows as sampling
from service.engine.engine import Engine
from service.engine.output_text import TextStream
from service.engine.pytorch.cache import SlotCache
from service.engine.pytorch.runner import Runner, StepOutput
from service.engine.request import Event, Finished, FinishReason, RequestRefused, TokenGenerated
from service.engine.scheduling.plan import Chunk, Plan
from service.engine.scheduling.sequence import Sequence
from service.engine.speculation.drafter import Drafter
from service.engine.step_events import Answers
from service.engine.step_in_parts import MOST_FAULTS, compute

BAD = 77
"""In the prompt of the request that brings its row down."""


class PanicException(BaseException):
    """As pyo3 names it: no ``Exception``."""


FAULTS = [ValueError("odd"), MemoryError(), PanicException("internal: rust"), IndexError()]


def requests() -> list[Any]:
    prompts = {"a": (5, 6, 7), "bad": (8, BAD, 9), "c": (5, 6, 7, 8, 9, 10), "d": (30, 31)}
    plain = [
        generation_request(name, ids, max_new_tokens=6, temperature=0.9, seed=number)
        for number, (name, ids) in enumerate(prompts.items())
    ]
    return [
        dataclasses.replace(one, prompt_logprobs=2, logprobs=2) if one.request_id == "bad" else one
        for one in plain
    ]


def run(engine: Engine, *, without: str = "") -> dict[str, tuple[list[int], Finished]]:
    """Tokens and end of each request."""
    events: list[Event] = []
    for request in requests():
        if request.request_id != without:
            engine.submit(request)
    for _ in range(60):
        if engine.is_idle:
            break
        events += engine.step()
        engine.check_integrity()
    ends = [event for event in events if isinstance(event, Finished)]
    assert len(ends) == len({end.request_id for end in ends}), "one end each"
    return {
        end.request_id: (
            [
                event.token_id
                for event in events
                if isinstance(event, TokenGenerated) and event.request_id == end.request_id
            ],
            end,
        )
        for end in ends
    }


def is_bad(sequence: Sequence) -> bool:
    return BAD in sequence.request.prompt_ids


def fails_when(
    function: Callable[..., Any], is_wrong: Callable[..., bool], fault: BaseException
) -> Callable[..., Any]:
    def failing(*arguments: Any, **keywords: Any) -> Any:
        if is_wrong(*arguments):
            raise fault
        return function(*arguments, **keywords)

    return failing


def always(fault: BaseException) -> Callable[..., Any]:
    return fails_when(lambda: None, lambda *_: True, fault)


def plan_is_bad(_: object, plan: Plan, *__: object) -> bool:
    return any(is_bad(chunk.sequence) for chunk in plan.chunks)


PLACES: dict[str, tuple[object, str, Callable[..., bool]]] = {
    "drawing": (sampling, "draw", plan_is_bad),
    "appending": (Answers, "append", lambda _, sequence, *__: is_bad(sequence)),
    "scoring": (Answers, "score_prompt", lambda _, chunk, *__: is_bad(chunk.sequence)),
    "text": (TextStream, "push", lambda stream, *_: getattr(stream, "is_bad", False)),
    "forward": (Runner, "run", plan_is_bad),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("place", PLACES)
def test_who_brings_a_step_down_ends_alone(
    place: str,
    fault: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if toy_engine is overlapped_engine and place in {"forward", "drawing"}:
        pytest.skip("the device does it for all rows together")
    expected = run(toy_engine())
    owner, name, is_wrong = PLACES[place]
    begin = Sequence.__init__

    def mark(self: Sequence, *arguments: Any) -> None:
        begin(self, *arguments)
        self.text.is_bad = is_bad(self)  # type: ignore[attr-defined]

    monkeypatch.setattr(Sequence, "__init__", mark)
    monkeypatch.setattr(owner, name, fails_when(getattr(owner, name), is_wrong, fault))
    got = run(toy_engine())
    assert got["bad"][1].reason is FinishReason.ERROR
    assert got["bad"][1].message == f"{type(fault).__name__}, see the log"
    for other in ("a", "c", "d"):
        assert got[other] == expected[other]


def test_a_row_drawn_on_the_host_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Penalties: drawn with the others on a CPU, and apart from them beside a device."""
    expected = run(toy_engine())
    monkeypatch.setattr(sampling, "_adjusts", lambda sequence, index: is_bad(sequence) or index < 0)
    monkeypatch.setattr("service.engine.gpu.runner.GpuRunner.draws_on_host", lambda _, s: is_bad(s))
    broken = fails_when(sampling._adjusted, lambda *_: True, ValueError("penalties"))
    monkeypatch.setattr(sampling, "_adjusted", broken)
    got = run(toy_engine())
    assert got["bad"][1].reason is FinishReason.ERROR
    for other in ("a", "c", "d"):
        assert got[other] == expected[other]


def test_a_copy_that_fails_ends_who_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = toy_engine(speculation=False)
    engine.submit(generation_request("first", (5, 6, 7, 8), max_new_tokens=20))
    engine.step()
    engine.submit(generation_request("sharing", (5, 6, 7, 8, 9)))
    engine.submit(generation_request("other", (20, 21)))
    monkeypatch.setattr(SlotCache, "copy", always(MemoryError()))
    ends = [event for _ in range(40) for event in engine.step() if isinstance(event, Finished)]
    assert {end.request_id: end.reason.value for end in ends} == {
        "first": "length", "sharing": "error", "other": "length",
    }  # fmt: skip
    engine.check_integrity()


def test_a_text_that_cannot_be_finished_still_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = toy_engine()
    monkeypatch.setattr(TextStream, "finish", always(PanicException()))
    ends = run(engine)
    assert {end.reason for _, end in ends.values()} == {FinishReason.ERROR}


def test_guessing_that_fails_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(toy_engine())
    monkeypatch.setattr(Drafter, "draft", always(KeyError("guess")))
    assert run(toy_engine()) == expected


def test_a_launch_that_fails_ends_its_sequences_and_not_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = overlapped_engine(num_slots=2, speculation=False)
    for name in ("a", "b", "queued"):
        engine.submit(generation_request(name, (5, 6, 7), max_new_tokens=5))
    events = [*engine.step(), *engine.step()]
    with monkeypatch.context() as patched:
        patched.setattr(
            type(engine._runner), "launch", fails_when(None, lambda *_: True, MemoryError())
        )  # type: ignore[arg-type]
        events += engine.step()
    while not engine.is_idle:
        events += engine.step()
        engine.check_integrity()
    ends = {event.request_id: event.reason.value for event in events if isinstance(event, Finished)}
    assert ends == {"a": "error", "b": "error", "queued": "length"}
    tokens = [event for event in events if isinstance(event, TokenGenerated)]
    assert sum(token.request_id == "a" for token in tokens) == 2, "those before are delivered"


def chunks(count: int) -> Iterator[Chunk]:
    for number in range(count):
        request = generation_request(str(number), (number, 1))
        yield Chunk(Sequence(request, toy_engine()._tokenizer), 0, 2)


def test_halves_find_the_rows_at_fault() -> None:
    tried: list[int] = []

    def fail_for(plan: Plan) -> StepOutput:
        tried.append(len(plan.chunks))
        if any(chunk.sequence.request_id in {"3", "9"} for chunk in plan.chunks):
            raise MemoryError
        return StepOutput(torch.zeros(len(plan.chunks), 1), (True,) * len(plan.chunks))

    results = compute(fail_for, Plan(tuple(chunks(16)), ()))
    lost = [
        part.chunks[0].sequence.request_id
        for part, out in results
        if not isinstance(out, StepOutput)
    ]
    assert lost == ["3", "9"]
    assert sum(len(part.chunks) for part, _ in results) == 16
    assert len(tried) <= 1 + 2 * 2 * 4


def test_a_step_that_nobody_survives_is_not_tried_for_each() -> None:
    tried: list[int] = []

    def fail(plan: Plan) -> StepOutput:
        tried.append(len(plan.chunks))
        raise ValueError

    results = compute(fail, Plan(tuple(chunks(64)), ()))
    assert sum(len(part.chunks) for part, _ in results) == 64
    assert len(tried) <= 6 + 2 * MOST_FAULTS


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_ids": (5, 300)},
        {"prompt_ids": (5, -1)},
        {"stop_token_ids": (256 + 1000,)},
        {"logit_bias": ((99999, 1.0),)},
    ],
    ids=str,
)
def test_ids_that_the_model_has_not_are_refused_at_admission(change: dict[str, Any]) -> None:
    engine = toy_engine(toy_decoder(0).double())
    assert engine._runner.config.vocab_size <= 300
    request = generation_request()
    if "logit_bias" in change:
        request = dataclasses.replace(
            request, sampling=dataclasses.replace(request.sampling, **change)
        )
    else:
        request = dataclasses.replace(request, **change)
    with pytest.raises(RequestRefused, match="token ids of this model are below"):
        engine.submit(request)
    assert engine.is_idle


def test_an_end_token_that_the_model_has_not_is_never_banned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = toy_engine()
    monkeypatch.setattr(engine._tokenizer, "eos_token_ids", (0, 5000))  # all toys share it
    request = dataclasses.replace(generation_request(max_new_tokens=3), min_new_tokens=3)
    engine.submit(request)
    events = [event for _ in range(6) for event in engine.step()]
    assert [e.reason for e in events if isinstance(e, Finished)] == [FinishReason.LENGTH]
