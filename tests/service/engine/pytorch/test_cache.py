import pytest
import torch
from toys import toy_config

from service.engine.pytorch.cache import SlotCache

CONFIG = toy_config()
"""Two layers, two key/value heads of width 16."""


def make_cache(dtype: torch.dtype = torch.float32) -> SlotCache:
    return SlotCache(CONFIG, num_slots=3, max_tokens=5, dtype=dtype, device=torch.device("cpu"))


def test_sizes_follow_the_model_and_the_slots() -> None:
    cache = make_cache()
    assert (cache.num_slots, cache.max_tokens, cache.capacity) == (3, 5, 15)
    assert cache.key.shape == cache.value.shape == (2, 3, 2, 5, 16)


@pytest.mark.parametrize("slots", [slice(0, 3), torch.tensor([2, 0])], ids=["slice", "indices"])
def test_what_was_written_is_read_back(slots: slice | torch.Tensor) -> None:
    cache = make_cache()
    rows, positions = torch.tensor([0, 2, 2]), torch.tensor([1, 0, 1])
    key, value = torch.randn(3, 2, 16), torch.randn(3, 2, 16)
    cache.write(1, rows, positions, key, value)
    expected_key, expected_value = torch.zeros(2, 3, 2, 2, 16)
    for row in range(3):
        expected_key[rows[row], :, positions[row]] = key[row]
        expected_value[rows[row], :, positions[row]] = value[row]
    read_key, read_value = cache.read(1, slots, 2)
    assert torch.equal(read_key, expected_key[slots])
    assert torch.equal(read_value, expected_value[slots])
    other_key, other_value = cache.read(0, slots, 5)
    assert not other_key.any()
    assert not other_value.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_fresh_cache_is_finite_whatever_the_memory_held(dtype: torch.dtype) -> None:
    """A mask does not help against NaN: softmax gives it the weight 0, and 0 x NaN is NaN."""
    size = make_cache(dtype).key.nbytes
    rubbish = [torch.full((size // dtype.itemsize,), torch.nan, dtype=dtype) for _ in range(16)]
    del rubbish
    for _ in range(4):
        cache = make_cache(dtype)
        assert cache.key.dtype is dtype
        assert not cache.key.any()
        assert not cache.value.any()


def test_wiping_some_tokens_leaves_the_others() -> None:
    cache = make_cache()
    cache.key.fill_(1.0)
    cache.value.fill_(2.0)
    cache.clear(1, 2, 4)
    for tensor in (cache.key, cache.value):
        assert (tensor == 0).nonzero()[:, [1, 3]].unique(dim=0).tolist() == [[1, 2], [1, 3]]
        assert int((tensor == 0).sum()) == 2 * 2 * 2 * 16


def test_a_slot_gives_its_first_tokens_to_another() -> None:
    cache = make_cache()
    before = [tensor.normal_().clone() for tensor in (cache.key, cache.value)]
    cache.copy(2, 0, 3)
    for tensor, old in zip((cache.key, cache.value), before, strict=True):
        assert torch.equal(tensor[:, 0, :, :3], old[:, 2, :, :3])
        tensor[:, 0, :, :3] = old[:, 0, :, :3]
        assert torch.equal(tensor, old), "and nothing else has changed"
