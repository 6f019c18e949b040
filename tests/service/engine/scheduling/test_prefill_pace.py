"""Chunks by time: a pure rule over durations; the same ones give the same chunks."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import generation_request
from toys import toy_tokenizer

from service.engine.scheduling.prefill_pace import FIRST_CHUNK, SMALLEST_CHUNK, Pace
from service.engine.scheduling.scheduler import Scheduler
from service.engine.scheduling.sequence import Sequence

BOUND_S = 0.1


@dataclasses.dataclass(frozen=True)
class Machine:
    """Seconds of a step that decodes, and of a prompt's token."""

    decoding_s: float
    token_s: float

    def seconds(self, num_decoding: int, num_tokens: int) -> float:
        return self.decoding_s * bool(num_decoding) + self.token_s * num_tokens


def run(
    machine: Machine, *, streams: int, prompt: int, is_scored: bool = False
) -> list[tuple[int, float]]:
    """Tokens of the prompt in each step, and what the step takes, beside some streams."""
    pace = Pace(BOUND_S)
    scheduler = Scheduler(num_slots=8, max_step_tokens=256, pace=pace)
    tokenizer = toy_tokenizer()
    for number in range(streams):
        scheduler.add(
            Sequence(generation_request(str(number), (number,), max_new_tokens=10**6), tokenizer)
        )
    steps = []
    for number in range(5000):
        if number == (5 if streams else 0):
            request = generation_request("long", (9,) * prompt, max_new_tokens=1)
            scores = 0 if is_scored else None
            scheduler.add(Sequence(dataclasses.replace(request, prompt_logprobs=scores), tokenizer))
        plan = scheduler.schedule()
        if plan is None:
            break
        num_tokens = 0
        for chunk in plan.chunks:
            chunk.sequence.num_computed = chunk.end
            if not chunk.sequence.num_uncomputed:
                chunk.sequence.output_ids.append(9)
            if chunk.sequence.request_id == "long":
                num_tokens = chunk.num_tokens
        seconds = machine.seconds(len(plan.chunks) - bool(num_tokens), num_tokens)
        counts = (0, num_tokens) if is_scored else (num_tokens, 0)
        pace.observe(len(plan.chunks) - bool(num_tokens), *counts, seconds)
        if num_tokens:
            steps.append((num_tokens, seconds))
        if sum(count for count, _ in steps) == prompt:
            break
    assert sum(count for count, _ in steps) == prompt
    return steps


@pytest.mark.parametrize("is_scored", [False, True])
@pytest.mark.parametrize("token_ms", [0.1, 0.4, 1.0, 3.0, 9.0])
def test_a_chunk_beside_streams_takes_the_bound(token_ms: float, *, is_scored: bool) -> None:
    machine = Machine(0.02, token_ms / 1000)
    steps = run(machine, streams=4, prompt=3000, is_scored=is_scored)
    assert steps[0][0] == FIRST_CHUNK
    for count, seconds in steps[1:-1]:
        assert seconds <= machine.decoding_s + max(BOUND_S, SMALLEST_CHUNK * machine.token_s) * 1.01
        assert count >= SMALLEST_CHUNK
    longest = max(seconds for _, seconds in steps)
    if 256 * machine.token_s > BOUND_S:
        assert longest >= 0.8 * BOUND_S, "the bound is used"
    else:
        assert max(count for count, _ in steps) == 256 - 4


def test_where_decoding_is_slow_prompts_get_as_long() -> None:
    machine = Machine(0.3, 0.005)
    steps = run(machine, streams=4, prompt=600)
    assert all(seconds <= 0.61 for _, seconds in steps[1:])
    assert max(count for count, _ in steps) > 50


def test_nobody_is_spared_where_nobody_streams() -> None:
    assert [count for count, _ in run(Machine(0.02, 0.009), streams=0, prompt=600)] == [
        256,
        256,
        88,
    ]


def test_what_is_slow_for_a_while_does_not_stay_small() -> None:
    pace = Pace(BOUND_S)
    for seconds in (0.05, 3.0):  # somebody else had the cores
        pace.observe(0, 100, 0, seconds)
    assert pace.fitting(BOUND_S, is_scored=False) < 100
    for _ in range(12):
        count = max(SMALLEST_CHUNK, pace.fitting(BOUND_S, is_scored=False))
        pace.observe(0, count, 0, 0.0005 * count)
    assert pace.fitting(BOUND_S, is_scored=False) > 100


def test_a_bound_is_positive() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Pace(0.0)


durations = st.lists(
    st.tuples(st.integers(0, 32), st.integers(0, 256), st.integers(0, 256), st.floats(0, 10)),
    max_size=30,
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(steps=durations, seconds=st.floats(0, 10))
def test_whatever_was_seen_a_chunk_is_a_number_of_tokens(
    steps: list[tuple[int, int, int, float]], seconds: float
) -> None:
    first, second = Pace(BOUND_S), Pace(BOUND_S)
    for pace in (first, second):
        for step in steps:
            pace.observe(*step)
    for is_scored in (False, True):
        fitting = first.fitting(seconds, is_scored=is_scored)
        assert fitting == second.fitting(seconds, is_scored=is_scored)
        assert 0 <= fitting <= 1 << 30
        if 0 < fitting < 1 << 30:
            assert first.seconds(fitting, is_scored=is_scored) <= seconds * (1 + 1e-9)
