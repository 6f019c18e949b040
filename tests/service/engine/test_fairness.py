"""Slots and prompts are shared between clients: the pure policy, without tensors or time."""

import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from serving import generation_request
from toys import toy_tokenizer

from service.engine.scheduling.plan import Plan
from service.engine.scheduling.scheduler import Scheduler
from service.engine.scheduling.sequence import Sequence

TOKENIZER = toy_tokenizer()


def of(client: str, name: str, *, prompt: int = 1, answer: int = 4) -> Sequence:
    prompt_ids = (hash_of(f"{client}/{name}"), *(7,) * (prompt - 1))
    request = generation_request(f"{client}/{name}", prompt_ids, max_new_tokens=answer)
    return Sequence(type(request)(**{**vars(request), "client": client}), TOKENIZER)


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode()[-6:], "big")


def carry_out(scheduler: Scheduler, plan: Plan | None) -> list[Sequence]:
    """What the engine does after a step; returns who finished."""
    finished = []
    for chunk in () if plan is None else plan.chunks:
        chunk.sequence.num_computed = chunk.end
        if chunk.sequence.num_uncomputed == 0:
            chunk.sequence.output_ids.append(9)
            if len(chunk.sequence.output_ids) == chunk.sequence.request.max_new_tokens:
                scheduler.remove(chunk.sequence)
                finished.append(chunk.sequence)
    scheduler.check_integrity()
    return finished


def test_a_new_client_goes_before_the_hundredth_request_of_an_old_one() -> None:
    scheduler = Scheduler(num_slots=4, max_step_tokens=64)
    for number in range(128):
        scheduler.add(of("old", str(number), answer=2000))
    carry_out(scheduler, scheduler.schedule())
    scheduler.add(of("new", "a", answer=2))
    plan = scheduler.schedule()
    assert plan is not None
    assert [one.request_id for one in plan.started] == ["new/a"]
    assert Counter(one.client for one in scheduler.running) == {"old": 3, "new": 1}


def test_who_loses_a_slot_goes_on_where_it_was() -> None:
    scheduler = Scheduler(num_slots=2, max_step_tokens=16, reuse_prefixes=False)
    for number in range(2):
        scheduler.add(of("old", str(number), prompt=3, answer=9))
    for _ in range(4):
        carry_out(scheduler, scheduler.schedule())
    scheduler.add(of("new", "a", answer=1))
    plan = scheduler.schedule()
    assert plan is not None
    (paused,) = scheduler.waiting
    assert (paused.request_id, len(paused.output_ids)) == ("old/1", 4)
    carry_out(scheduler, plan)  # the new one ends
    plan = scheduler.schedule()
    assert plan is not None
    (chunk,) = (chunk for chunk in plan.chunks if chunk.sequence is paused)
    assert (chunk.start, chunk.end, chunk.num_draws) == (0, 7, 1)
    assert chunk.token_ids == (*paused.request.prompt_ids, 9, 9, 9, 9)


def test_slots_do_not_go_to_and_fro() -> None:
    scheduler = Scheduler(num_slots=3, max_step_tokens=16)
    for client, number in itertools.product("ab", range(9)):
        scheduler.add(of(client, str(number), answer=50))
    num_started = 0
    for _ in range(20):
        plan = scheduler.schedule()
        assert plan is not None
        num_started += len(plan.started)
        carry_out(scheduler, plan)
    assert num_started == 3


def test_a_short_prompt_waits_for_one_chunk_of_each_other_client_at_most() -> None:
    scheduler = Scheduler(num_slots=6, max_step_tokens=16)
    for client, number in itertools.product("ab", range(2)):
        scheduler.add(of(client, str(number), prompt=1000))
    for _ in range(3):
        carry_out(scheduler, scheduler.schedule())
    scheduler.add(of("new", "a", prompt=10))
    for _ in range(3):
        plan = scheduler.schedule()
        assert plan is not None
        carry_out(scheduler, plan)
        if any(chunk.sequence.client == "new" and chunk.end == 10 for chunk in plan.chunks):
            return
    raise AssertionError("it had to wait")


def test_a_late_device_frees_a_slot_only_when_nothing_of_it_is_under_way() -> None:
    scheduler = Scheduler(num_slots=2, max_step_tokens=16, is_late=True)
    for number in range(2):
        scheduler.add(of("old", str(number), answer=9))
    nobody = lambda sequence: False  # noqa: E731
    carry_out(scheduler, scheduler.schedule(nobody))
    scheduler.add(of("new", "a"))
    plan = scheduler.schedule(nobody)
    assert plan is not None
    assert [chunk.sequence.request_id for chunk in plan.chunks] == ["old/0"]
    assert plan.started == ()
    carry_out(scheduler, plan)
    plan = scheduler.schedule(nobody)
    assert plan is not None
    assert [one.request_id for one in plan.started] == ["new/a"]


arrivals = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 12), st.integers(1, 5), st.integers(0, 3)),
    min_size=1,
    max_size=14,
)


@settings(derandomize=True, deadline=None, max_examples=120)
@given(arrivals=arrivals, num_slots=st.integers(1, 4), spare=st.integers(1, 8))
def test_slots_are_shared_and_nobody_starves(
    arrivals: list[tuple[str, int, int, int]], num_slots: int, spare: int
) -> None:
    """Work conserving, first in first out for each client, and everybody comes to an end."""
    scheduler = Scheduler(num_slots=num_slots, max_step_tokens=num_slots + spare)
    pending = [
        (step, of(client, f"{number:03}", prompt=prompt, answer=answer))
        for number, (client, prompt, answer, _) in enumerate(arrivals)
        for step in [sum(gap for *_, gap in arrivals[: number + 1])]
    ]
    order: dict[str, list[str]] = {}
    finished: set[str] = set()
    work = sum(prompt + answer for _, prompt, answer, _ in arrivals)
    for step in range(100 * work):
        for _, sequence in [one for one in pending if one[0] == step]:
            scheduler.add(sequence)
        pending = [one for one in pending if one[0] > step]
        if not pending and not scheduler.running and not scheduler.waiting:
            break
        plan = scheduler.schedule()
        counts = Counter(one.client for one in scheduler.running)
        if scheduler.waiting:
            assert len(scheduler.running) == num_slots, "a slot is free and somebody waits"
            fewest = min(counts.get(one.client, 0) for one in scheduler.waiting)
            assert max(counts.values()) <= fewest + 1, "somebody has more than a fair share"
        for sequence in () if plan is None else plan.started:
            if not sequence.has_started:
                sequence.has_started = True
                order.setdefault(sequence.client, []).append(sequence.request_id)
        finished |= {one.request_id for one in carry_out(scheduler, plan)}
    assert len(finished) == len(arrivals)
    assert all(names == sorted(names) for names in order.values())


def test_a_flood_of_new_clients_starves_no_long_prompt() -> None:
    scheduler = Scheduler(num_slots=4, max_step_tokens=8)
    long = of("long", "a", prompt=100, answer=1)
    scheduler.add(long)
    for step in range(400):
        scheduler.add(of(f"c{step:04}", "a", prompt=8, answer=1))
        scheduler.add(of(f"d{step:04}", "a", prompt=8, answer=1))
        if long in carry_out(scheduler, scheduler.schedule()):
            return
    raise AssertionError("it starves")


def test_a_client_of_many_answers_counts_each_of_them() -> None:
    scheduler = Scheduler(num_slots=4, max_step_tokens=16)
    for number in range(8):
        scheduler.add(of("many", f"n{number}", answer=30))
    for client in ("b", "c"):
        scheduler.add(of(client, "a", answer=30))
    scheduler.schedule()
    assert Counter(one.client for one in scheduler.running) == {"many": 2, "b": 1, "c": 1}
