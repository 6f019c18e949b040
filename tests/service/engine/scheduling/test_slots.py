import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.scheduling.slots import Lease, SlotPool, shared_length

NOTHING: dict[int, tuple[int, ...]] = {}


def test_the_lowest_empty_slot_is_handed_out() -> None:
    pool = SlotPool(4)
    assert [pool.take((1, 2), NOTHING).slot for _ in range(3)] == [0, 1, 2]
    pool.give_back(1, ())
    pool.give_back(0, ())
    assert [pool.take((1, 2), NOTHING).slot for _ in range(3)] == [0, 1, 3]
    assert pool.num_free == 0


def test_a_pool_needs_a_slot() -> None:
    with pytest.raises(ValueError, match="num_slots must be positive, got 0"):
        SlotPool(0)


def test_a_slot_cannot_be_given_back_twice() -> None:
    pool = SlotPool(2)
    slot = pool.take((1, 2), NOTHING).slot
    pool.give_back(slot, ())
    with pytest.raises(AssertionError):
        pool.give_back(slot, ())


@pytest.mark.parametrize("used", [[], [0, 1], [1, 1]], ids=str)
def test_integrity_notices_a_slot_that_is_lost_or_held_twice(used: list[int]) -> None:
    pool = SlotPool(3)
    assert pool.take((1,), NOTHING).slot == 0
    pool.check_integrity([0])
    with pytest.raises(AssertionError):
        pool.check_integrity(used)


def pool_of(*kept: tuple[int, ...]) -> SlotPool:
    """Free slots that hold these tokens, the first used least recently."""
    pool = SlotPool(len(kept))
    for _ in kept:
        pool.take((9,), NOTHING)
    for slot, token_ids in enumerate(kept):
        pool.give_back(slot, token_ids)
    return pool


def test_a_prompt_that_goes_on_from_a_kept_one_takes_its_slot() -> None:
    assert pool_of((5, 5), (1, 2, 3), ()).take((1, 2, 3, 4), NOTHING) == Lease(1, 1, 3)


def test_a_prompt_that_leaves_a_kept_one_copies_what_they_share() -> None:
    pool = pool_of((1, 2, 3), (5, 5), ())
    assert pool.take((1, 2, 7, 8), NOTHING) == Lease(2, 0, 2)
    assert pool.take((1, 2, 3, 8), NOTHING) == Lease(0, 0, 3), "the first has lost nothing"


def test_the_longest_prefix_counts_free_or_running() -> None:
    pool = pool_of((1, 2), (1, 2, 3, 9), ())
    assert pool.take((1, 2, 3, 4, 5), {7: (1, 2, 3, 4)}) == Lease(2, 7, 4)
    assert pool.take((1, 2, 3, 4, 5), {7: (1, 2, 3)}) == Lease(0, 1, 3)


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    assert pool_of((1, 2, 3), ()).take((1, 2, 3), NOTHING) == Lease(0, 0, 2)
    assert pool_of((1, 2, 3), ()).take((1,), NOTHING) == Lease(1, 1, 0)


def test_what_was_used_least_recently_goes_first() -> None:
    pool = pool_of((1, 1), (2, 2), (3, 3))
    assert pool.take((1, 5), {}) == Lease(1, 0, 1), "and what is copied from was just used"
    assert pool.take((7, 7), NOTHING).slot == 2
    assert pool.take((7, 7), NOTHING).slot == 0


def test_the_only_free_slot_is_given_whatever_it_holds() -> None:
    assert pool_of((1, 2, 3, 4)).take((1, 2, 9), NOTHING) == Lease(0, 0, 2)
    assert pool_of((1, 2, 3, 4)).take((8, 9), NOTHING) == Lease(0, 0, 0)


@pytest.mark.parametrize(
    ("first", "second", "length"),
    [((), (1,), 0), ((1,), (2,), 0), ((1, 2), (1, 2, 3), 2), ((1, 2, 3), (1, 2, 4), 2)],
)
def test_shared_length(first: tuple[int, ...], second: tuple[int, ...], length: int) -> None:
    assert shared_length(first, second) == shared_length(second, first) == length


PROMPTS = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)


@settings(derandomize=True, deadline=None)
@given(
    num_slots=st.integers(1, 5),
    moves=st.lists(st.one_of(PROMPTS, st.integers(0, 5)), max_size=40),
)
def test_slots_are_conserved_and_share_only_what_is_there(
    num_slots: int, moves: list[tuple[int, ...] | int]
) -> None:
    """Tuples are prompts that come, integers are slots that are given back."""
    pool = SlotPool(num_slots)
    holds: dict[int, tuple[int, ...]] = dict.fromkeys(range(num_slots), ())
    used: dict[int, tuple[int, ...]] = {}
    for move in moves:
        if isinstance(move, tuple) and pool.num_free:
            slot, source, num_tokens = pool.take(move, used)
            assert slot not in used
            assert num_tokens == min(
                len(move) - 1, max(shared_length(held, move) for held in holds.values())
            ), "the longest there is"
            assert holds[source][:num_tokens] == move[:num_tokens]
            used[slot] = holds[slot] = move
        elif isinstance(move, int) and used:
            slot = sorted(used)[move % len(used)]
            pool.give_back(slot, used.pop(slot))
        pool.check_integrity(used)
        assert pool.num_free == num_slots - len(used)


def test_a_pool_may_begin_behind_other_slots() -> None:
    pool = SlotPool(2, first=7)
    assert [pool.take((1, 2), NOTHING).slot for _ in range(2)] == [7, 8]
    pool.give_back(8, (1, 2))
    pool.check_integrity([7])
    assert pool.take((1, 2, 3), NOTHING) == Lease(8, 8, 2)


def test_siblings_share_room_but_no_prefix() -> None:
    pool = SlotPool(2, first=3)
    other = pool.sibling()
    assert (other.num_slots, other.num_free) == (2, 2)
    assert pool.take((1, 2, 3), NOTHING).slot == 3
    assert other.take((9, 9), NOTHING).slot == 4
    assert pool.num_free == other.num_free == 0
    pool.check_integrity([3])
    other.check_integrity([4])
    pool.give_back(3, (1, 2, 3))
    assert other.take((1, 2, 3), NOTHING) == Lease(3, 3, 0), "it holds another model's numbers"
    other.give_back(3, (1, 2))
    assert pool.take((1, 2, 3), NOTHING) == Lease(3, 3, 0), "and now they are this one's no more"


def test_a_sibling_cannot_give_back_what_it_has_not_taken() -> None:
    pool = SlotPool(2)
    slot = pool.take((1, 2), NOTHING).slot
    with pytest.raises(AssertionError):
        pool.sibling().give_back(slot, ())


@settings(derandomize=True, deadline=None)
@given(
    num_slots=st.integers(1, 4),
    moves=st.lists(st.tuples(st.booleans(), st.one_of(PROMPTS, st.integers(0, 5))), max_size=40),
)
def test_siblings_conserve_slots_and_share_only_what_is_their_own(
    num_slots: int, moves: list[tuple[bool, tuple[int, ...] | int]]
) -> None:
    first = SlotPool(num_slots)
    pools = (first, first.sibling())
    holds: dict[int, tuple[int, tuple[int, ...]]] = dict.fromkeys(range(num_slots), (0, ()))
    used: tuple[dict[int, tuple[int, ...]], ...] = ({}, {})
    for number, move in moves:
        pool, mine = pools[number], used[number]
        if isinstance(move, tuple) and pool.num_free:
            slot, source, num_tokens = pool.take(move, mine)
            writer, held = holds[source]
            assert num_tokens == 0 or writer == number
            assert held[:num_tokens] == move[:num_tokens]
            mine[slot] = move
            holds[slot] = (number, move)
        elif isinstance(move, int) and mine:
            slot = sorted(mine)[move % len(mine)]
            pool.give_back(slot, mine.pop(slot))
        for each, taken in zip(pools, used, strict=True):
            each.check_integrity(taken)
