import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys.properties import examples

from lm.volume.retention import Retention, steps_to_keep

numbers = st.sets(st.integers(0, 200), max_size=30)
retentions = st.builds(
    Retention,
    keep_last=st.integers(2, 6),
    keep_every=st.none() | st.integers(1, 50),
    keep_steps=st.lists(st.integers(0, 200), max_size=4).map(tuple),
)


@pytest.mark.parametrize(
    ("retention", "best", "full", "milestones"),
    [
        (Retention(), None, {80, 90, 100}, set()),
        (Retention(keep_last=2), None, {90, 100}, set()),
        (Retention(keep_last=2), 30, {30, 90, 100}, set()),
        (Retention(keep_last=2), 100, {90, 100}, set()),
        (Retention(keep_last=2), 55, {90, 100}, set()),
        (Retention(keep_last=2, keep_every=40), None, {90, 100}, {40, 80}),
        (Retention(keep_last=3, keep_every=40), None, {80, 90, 100}, {40}),
        (Retention(keep_last=2, keep_every=40), 40, {40, 90, 100}, {80}),
        (Retention(keep_last=2, keep_steps=(10, 55, 90)), None, {90, 100}, {10}),
        (Retention(keep_last=2, keep_every=40, keep_steps=(10,)), None, {90, 100}, {10, 40, 80}),
        (Retention(keep_last=99), None, set(range(10, 101, 10)), set()),
    ],
)
def test_of_ten_steps_stay_the_newest_the_best_and_the_milestones(
    retention: Retention, best: int | None, full: set[int], milestones: set[int]
) -> None:
    kept = steps_to_keep(range(10, 101, 10), best, retention)
    assert kept.full == full
    assert kept.milestones == milestones


@examples(200)
@given(steps=numbers, best=st.none() | st.integers(0, 200), retention=retentions)
def test_the_newest_and_the_best_always_stay_whole(
    steps: set[int], best: int | None, retention: Retention
) -> None:
    kept = steps_to_keep(steps, best, retention)
    assert set(sorted(steps)[-retention.keep_last :]) <= kept.full
    assert len(kept.full) >= min(2, len(steps))
    if best in steps:
        assert best in kept.full


@examples(200)
@given(steps=numbers, best=st.none() | st.integers(0, 200), retention=retentions)
def test_nothing_stays_but_the_newest_the_best_and_what_was_asked_for(
    steps: set[int], best: int | None, retention: Retention
) -> None:
    kept = steps_to_keep(steps, best, retention)
    assert not kept.full & kept.milestones
    assert kept.full | kept.milestones <= steps
    assert len(kept.full) <= retention.keep_last + 1
    for step in kept.milestones:
        is_multiple = retention.keep_every is not None and step % retention.keep_every == 0
        assert is_multiple or step in retention.keep_steps


@examples(100)
@given(steps=numbers, best=st.none() | st.integers(0, 200), retention=retentions)
def test_pruning_twice_is_pruning_once(
    steps: set[int], best: int | None, retention: Retention
) -> None:
    first = steps_to_keep(steps, best, retention)
    assert steps_to_keep(first.full | first.milestones, best, retention) == first


@examples(100)
@given(steps=numbers, retention=retentions, order=st.randoms(use_true_random=False))
def test_the_order_of_the_steps_does_not_matter(
    steps: set[int], retention: Retention, order: st.DataObject
) -> None:
    shuffled = sorted(steps)
    order.shuffle(shuffled)
    assert steps_to_keep(shuffled, None, retention) == steps_to_keep(steps, None, retention)


@pytest.mark.parametrize(
    ("field", "value"),
    [("keep_last", 1), ("keep_last", 0), ("keep_last", -3), ("keep_every", 0), ("keep_every", -1)],
)
def test_what_would_leave_a_reader_without_a_step_is_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{field} must"):
        Retention(**{field: value})
