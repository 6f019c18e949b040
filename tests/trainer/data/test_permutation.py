from hypothesis import given
from hypothesis import strategies as st

from trainer.data.permutation import derive_key, permute

KEYS = st.integers(0, (1 << 64) - 1)


@given(size=st.integers(1, 300), key=KEYS)
def test_every_index_has_one_image(size: int, key: int) -> None:
    assert sorted(permute(index, size, key) for index in range(size)) == list(range(size))


@given(size=st.integers(1, 1 << 62), key=KEYS, data=st.data())
def test_images_stay_inside_for_any_size(size: int, key: int, data: st.DataObject) -> None:
    assert 0 <= permute(data.draw(st.integers(0, size - 1)), size, key) < size


def test_keys_shuffle_differently_and_leave_few_indices_in_place() -> None:
    orders = [[permute(index, 1000, key) for index in range(1000)] for key in range(20)]
    assert len({tuple(order) for order in orders}) == 20
    in_place = sum(index == image for order in orders for index, image in enumerate(order))
    assert in_place < 60  # 20 expected of random permutations


def test_the_order_is_pinned_so_that_old_runs_resume() -> None:
    assert [permute(index, 10, 1337) for index in range(10)] == [9, 8, 1, 6, 3, 0, 7, 4, 5, 2]
    assert derive_key(1337, "shakespeare", 0) == 16943496571290753648


def test_keys_tell_their_parts_apart() -> None:
    keys = [derive_key(1, "2"), derive_key("1", 2), derive_key(12), derive_key(1, 2)]
    assert len(set(keys)) == 4
