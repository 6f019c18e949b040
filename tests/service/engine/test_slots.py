import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.slots import SlotPool


def test_the_lowest_free_slot_is_handed_out() -> None:
    pool = SlotPool(4)
    assert [pool.take() for _ in range(3)] == [0, 1, 2]
    pool.give_back(1)
    pool.give_back(0)
    assert [pool.take() for _ in range(3)] == [0, 1, 3]
    assert pool.num_free == 0


def test_a_pool_needs_a_slot() -> None:
    with pytest.raises(ValueError, match="num_slots must be positive, got 0"):
        SlotPool(0)


def test_a_slot_cannot_be_given_back_twice() -> None:
    pool = SlotPool(2)
    slot = pool.take()
    pool.give_back(slot)
    with pytest.raises(KeyError):
        pool.give_back(slot)


def test_integrity_notices_a_lost_slot() -> None:
    pool = SlotPool(3)
    pool._free.remove(1)
    with pytest.raises(AssertionError):
        pool.check_integrity()


@settings(derandomize=True, deadline=None)
@given(num_slots=st.integers(1, 6), moves=st.lists(st.integers(-1, 5), max_size=40))
def test_slots_are_conserved_whatever_is_taken_and_given_back(
    num_slots: int, moves: list[int]
) -> None:
    pool = SlotPool(num_slots)
    used: list[int] = []
    for move in moves:
        if move < 0 and pool.num_free:
            lowest = min(set(range(num_slots)) - set(used))
            used.append(pool.take())
            assert used[-1] == lowest
        elif used and move >= 0:
            pool.give_back(used.pop(move % len(used)))
        pool.check_integrity()
        assert pool.num_free == num_slots - len(used)
