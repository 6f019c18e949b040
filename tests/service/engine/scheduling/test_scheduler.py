"""The policy as tables of cases: no model, no tensor, no time."""

import dataclasses
import itertools
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import generation_request
from toys import toy_tokenizer

from service.engine.scheduling.plan import Plan, weight_at
from service.engine.scheduling.scheduler import Scheduler
from service.engine.scheduling.sequence import Sequence


def make_sequence(name: str, prompt_length: int, *, max_new_tokens: int = 4) -> Sequence:
    """A sequence whose prompt shares nothing with those of other names."""
    prompt_ids = (zlib.crc32(name.encode()), *(7,) * (prompt_length - 1))
    request = generation_request(name, prompt_ids, max_new_tokens=max_new_tokens)
    return Sequence(request, toy_tokenizer())


def carry_out(scheduler: Scheduler, plan: Plan) -> list[Sequence]:
    """What the engine does after a step, with an invented token; returns who finished."""
    finished = []
    for chunk in plan.chunks:
        chunk.sequence.num_computed = chunk.end
    for chunk in plan.chunks:
        if chunk.sequence.num_uncomputed == 0:
            chunk.sequence.output_ids.append(9)
            if len(chunk.sequence.output_ids) == chunk.sequence.request.max_new_tokens:
                scheduler.remove(chunk.sequence)
                finished.append(chunk.sequence)
    scheduler.check_integrity()
    return finished


def described(plan: Plan | None) -> list[tuple[str, int, int]]:
    return [] if plan is None else [(c.sequence.request_id, c.start, c.end) for c in plan.chunks]


@dataclasses.dataclass(frozen=True)
class Case:
    """Sequences by arrival: (name, prompt tokens, computed before); what the step computes."""

    waiting: list[tuple[str, int]]
    expected: list[tuple[str, int, int]]
    num_slots: int = 3
    max_step_tokens: int = 8


CASES = {
    "a prompt within the budget is one chunk": Case([("a", 5)], [("a", 0, 5)]),
    "a prompt over the budget is cut": Case([("a", 20)], [("a", 0, 8)]),
    "what is left goes to the next prompt": Case([("a", 5), ("b", 5)], [("a", 0, 5), ("b", 0, 3)]),
    "a prompt that gets nothing is not in the step": Case([("a", 8), ("b", 5)], [("a", 0, 8)]),
    "a prompt of one token is laid out with the decodes": Case(
        [("a", 5), ("b", 1)], [("b", 0, 1), ("a", 0, 5)]
    ),
    "who has no slot waits": Case(
        [("a", 1), ("b", 1), ("c", 1), ("d", 1)], [("a", 0, 1), ("b", 0, 1), ("c", 0, 1)]
    ),
    "one slot serves one": Case([("a", 2), ("b", 2)], [("a", 0, 2)], num_slots=1),
    "nothing to do is no plan": Case([], []),
}


@pytest.mark.parametrize("name", CASES)
def test_the_first_step_computes(name: str) -> None:
    case = CASES[name]
    scheduler = Scheduler(num_slots=case.num_slots, max_step_tokens=case.max_step_tokens)
    for request_id, prompt_length in case.waiting:
        scheduler.add(make_sequence(request_id, prompt_length))
    plan = scheduler.schedule()
    assert described(plan) == case.expected
    started = [] if plan is None else [sequence.request_id for sequence in plan.started]
    assert started == [request_id for request_id, _ in case.waiting[: case.num_slots]]
    scheduler.check_integrity()


def test_running_sequences_decode_in_every_step_while_a_long_prompt_comes_in_chunks() -> None:
    scheduler = Scheduler(num_slots=3, max_step_tokens=8)
    scheduler.add(make_sequence("a", 2, max_new_tokens=9))
    scheduler.add(make_sequence("b", 3, max_new_tokens=9))
    steps = []
    for _ in range(5):
        plan = scheduler.schedule()
        assert plan is not None
        steps.append(described(plan))
        carry_out(scheduler, plan)
        if len(steps) == 1:
            scheduler.add(make_sequence("long", 15))
    assert steps == [
        [("a", 0, 2), ("b", 0, 3)],
        [("a", 2, 3), ("b", 3, 4), ("long", 0, 6)],
        [("a", 3, 4), ("b", 4, 5), ("long", 6, 12)],
        [("a", 4, 5), ("b", 5, 6), ("long", 12, 15)],
        [("a", 5, 6), ("b", 6, 7), ("long", 15, 16)],
    ]


def test_decodes_stand_by_slot_so_that_neighbours_are_one_slice() -> None:
    scheduler = Scheduler(num_slots=3, max_step_tokens=16)
    names = ["a", "b", "c"]
    for name in names:
        scheduler.add(make_sequence(name, 2, max_new_tokens=1 if name == "a" else 9))
    plan = scheduler.schedule()
    assert plan is not None
    carry_out(scheduler, plan)  # a ends and gives slot 0 back
    scheduler.add(make_sequence("d", 2, max_new_tokens=9))
    for _ in range(2):
        plan = scheduler.schedule()
        assert plan is not None
        carry_out(scheduler, plan)
    assert [chunk.sequence.request_id for chunk in plan.chunks] == ["d", "b", "c"]
    assert [chunk.slot for chunk in plan.chunks] == [0, 1, 2]


@pytest.mark.parametrize(("num_slots", "max_step_tokens"), [(1, 1), (4, 4), (32, 16)], ids=str)
def test_a_budget_that_decoding_could_use_up_is_refused(
    num_slots: int, max_step_tokens: int
) -> None:
    with pytest.raises(ValueError, match=f"max_step_tokens {max_step_tokens} must exceed"):
        Scheduler(num_slots=num_slots, max_step_tokens=max_step_tokens)


@pytest.mark.parametrize("flood_length", [1, 3, 30])
def test_nobody_starves_under_a_constant_flood(flood_length: int) -> None:
    scheduler = Scheduler(num_slots=3, max_step_tokens=4)
    order: list[str] = []
    finished: list[str] = []
    scheduler.add(make_sequence("early", 25))
    for step in range(1200):
        scheduler.add(make_sequence(f"flood-{step}", flood_length))
        decoding = {s.request_id for s in scheduler.running if s.num_uncomputed == 1}
        plan = scheduler.schedule()
        assert plan is not None
        assert sum(chunk.num_tokens for chunk in plan.chunks) <= 4
        assert decoding <= {chunk.sequence.request_id for chunk in plan.chunks}
        order += [sequence.request_id for sequence in plan.started]
        finished += [sequence.request_id for sequence in carry_out(scheduler, plan)]
    arrivals = ["early", *(f"flood-{step}" for step in range(1200))]
    assert order == arrivals[: len(order)]
    # The budget is at least one prompt token a step, so each of the served took at most its
    # prompt and its output in steps while it was the oldest.
    steps_a_request = flood_length + 4
    assert len(finished) >= (1200 - 29) // steps_a_request - 3
    assert set(arrivals[: len(finished) - 3]) <= set(finished)


def test_find_and_remove_know_the_queue_and_the_running() -> None:
    scheduler = Scheduler(num_slots=1, max_step_tokens=4)
    running, waiting = make_sequence("running", 2), make_sequence("waiting", 2)
    scheduler.add(running)
    scheduler.add(waiting)
    scheduler.schedule()
    assert scheduler.find("running") is running
    assert scheduler.find("waiting") is waiting
    assert scheduler.find("nobody") is None
    scheduler.remove(waiting)
    scheduler.remove(running)
    scheduler.check_integrity()
    assert (list(scheduler.running), list(scheduler.waiting)) == ([], [])
    assert scheduler.schedule() is None


def test_a_freed_slot_is_taken_in_the_next_step() -> None:
    scheduler = Scheduler(num_slots=1, max_step_tokens=4)
    first, second = make_sequence("first", 10), make_sequence("second", 2)
    scheduler.add(first)
    scheduler.add(second)
    scheduler.schedule()
    scheduler.remove(first)
    assert described(scheduler.schedule()) == [("second", 0, 2)]


def run_to_the_end(scheduler: Scheduler) -> list[tuple[str, int, int]]:
    steps = []
    while (plan := scheduler.schedule()) is not None:
        steps += described(plan)
        carry_out(scheduler, plan)
    return steps


def request_for(name: str, prompt_ids: tuple[int, ...], max_new_tokens: int = 2) -> Sequence:
    request = generation_request(name, prompt_ids, max_new_tokens=max_new_tokens)
    return Sequence(request, toy_tokenizer())


def test_the_next_turn_of_a_chat_computes_what_is_new() -> None:
    scheduler = Scheduler(num_slots=2, max_step_tokens=64)
    scheduler.add(request_for("first", (1, 2, 3)))
    assert run_to_the_end(scheduler) == [("first", 0, 3), ("first", 3, 4)]
    # The answer was 9, 9; the last of its tokens was never an input.
    scheduler.add(request_for("second", (1, 2, 3, 9, 9, 4, 5)))
    plan = scheduler.schedule()
    assert plan is not None
    assert (described(plan), plan.copies) == ([("second", 4, 7)], ()), "in the same slot"
    assert plan.chunks[0].slot == 0


def test_a_running_prompt_is_copied_as_far_as_it_is_computed() -> None:
    scheduler = Scheduler(num_slots=2, max_step_tokens=8)
    scheduler.add(request_for("first", (1,) * 20))
    plan = scheduler.schedule()
    assert plan is not None
    carry_out(scheduler, plan)
    scheduler.add(request_for("second", (1,) * 12))
    plan = scheduler.schedule()
    assert plan is not None
    assert plan.copies == ((1, 0, 8),)
    assert described(plan) == [("first", 8, 16)]
    assert plan.started[0].num_computed == 8


def test_nothing_is_shared_where_that_is_switched_off() -> None:
    scheduler = Scheduler(num_slots=2, max_step_tokens=64, reuse_prefixes=False)
    for name in ("first", "second"):
        scheduler.add(request_for(name, (1, 2, 3), 1))
        assert run_to_the_end(scheduler) == [(name, 0, 3)]


def test_kept_slots_never_keep_anybody_waiting() -> None:
    scheduler = Scheduler(num_slots=2, max_step_tokens=64)
    for number in range(5):
        scheduler.add(request_for(str(number), (number, 2, 3), 1))
        run_to_the_end(scheduler)
    scheduler.add(request_for("a", (1,)))
    scheduler.add(request_for("b", (2,)))
    plan = scheduler.schedule()
    assert plan is not None
    assert [sequence.request_id for sequence in plan.started] == ["a", "b"]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 6)), min_size=1, max_size=8),
    flood=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 6)), min_size=1, max_size=3),
    num_slots=st.integers(1, 4),
    spare_tokens=st.integers(1, 12),
)
def test_everybody_is_served_within_a_bound_that_no_flood_moves(
    sizes: list[tuple[int, int]],
    flood: list[tuple[int, int]],
    num_slots: int,
    spare_tokens: int,
) -> None:
    """The oldest gets on in every step, so nobody waits longer than for those before them."""
    scheduler = Scheduler(num_slots=num_slots, max_step_tokens=num_slots + spare_tokens)
    bounds: dict[str, int] = {}
    work = 0
    for number, (length, answer) in enumerate(sizes):
        scheduler.add(make_sequence(str(number), length, max_new_tokens=answer))
        work += length + answer
        bounds[str(number)] = work
    started: list[str] = []
    for step in range(1, work + 1):
        for number, (length, answer) in enumerate(flood):
            scheduler.add(make_sequence(f"f{step}-{number}", length, max_new_tokens=answer))
        plan = scheduler.schedule()
        assert plan is not None
        assert sum(chunk.num_tokens for chunk in plan.chunks) <= num_slots + spare_tokens
        started += [sequence.request_id for sequence in plan.started]
        for sequence in carry_out(scheduler, plan):
            assert step <= bounds.pop(sequence.request_id, step)
    assert bounds == {}
    assert started[: len(sizes)] == [str(number) for number in range(len(sizes))]


def test_a_long_prompt_is_cut_in_smaller_chunks_the_longer_it_is() -> None:
    scheduler = Scheduler(num_slots=2, max_step_tokens=256)
    scheduler.add(Sequence(generation_request(prompt_ids=range(8000)), toy_tokenizer()))
    sizes, start = [], 0
    while start < 8000:
        plan = scheduler.schedule()
        assert plan is not None
        (chunk,) = plan.chunks
        assert chunk.start == start
        start = chunk.sequence.num_computed = chunk.end
        sizes.append(chunk.num_tokens)
    assert sizes[:4] == [256, 256, 256, 256]
    assert all(later <= earlier for earlier, later in itertools.pairwise(sizes))
    assert 50 < sizes[-2] < 70
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    costs = [size * weight_at(at) for at, size in zip(starts, sizes, strict=True)]
    assert max(costs) <= 256
