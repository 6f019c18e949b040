"""The kernels' layout holds what the decoder computes, and slots can be copied."""

import pytest
import torch
from serving.native import ISAS, native_config, native_runner, open_native
from toys import toy_decoder

from service.engine.native.cache import NativeCache
from service.engine.native.reference import linear


def test_a_fresh_cache_is_zero_and_as_large_as_asked() -> None:
    cache = NativeCache(native_config(), num_slots=3, max_tokens=40)
    assert (cache.num_slots, cache.max_tokens, cache.capacity) == (3, 40, 120)
    assert cache.padded_tokens == 64
    assert not cache.key.any()
    assert not cache.value.any()


@pytest.mark.parametrize("isa", ISAS)
def test_values_are_the_projections_in_bfloat16(isa: str) -> None:
    runner = native_runner(open_native(isa), "bfloat16")
    token_ids = [3, 250, 17, 99, 5]
    runner.compute(token_ids, list(range(5)), [2] * 5, [])
    weights = toy_decoder(3, native_config()).state_dict()
    x = weights["model.embed_tokens.weight"][token_ids].bfloat16().float()
    x = torch.nn.functional.rms_norm(
        x, x.shape[-1:], weights["model.layers.0.input_layernorm.weight"], 1e-5
    )
    expected = linear(
        open_native(isa), x, weights["model.layers.0.self_attn.v_proj.weight"], "bfloat16"
    )
    _, value = runner.cache.tokens(2, 5)
    torch.testing.assert_close(value[0, 0].float(), expected, rtol=0.01, atol=1e-4)
    assert not runner.cache.tokens(1, 5)[1].any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("num_tokens", [1, 31, 32, 33, 100])
def test_a_copied_prefix_goes_on_as_the_original(isa: str, num_tokens: int) -> None:
    runner = native_runner(open_native(isa), "int8", max_step_tokens=128)
    token_ids = [token % 300 for token in range(0, 700, 7)]
    positions = list(range(100))
    expected, _ = runner.compute(token_ids, positions, [0] * 100, [99])
    runner.cache.copy(0, 3, num_tokens)
    for mine, other in zip(
        runner.cache.tokens(3, num_tokens), runner.cache.tokens(0, num_tokens), strict=True
    ):
        assert torch.equal(mine, other)
    rest = slice(min(num_tokens, 99), 100)
    out, _ = runner.compute(
        token_ids[rest], positions[rest], [3] * len(token_ids[rest]), [len(token_ids[rest]) - 1]
    )
    assert torch.equal(out, expected)


def test_wiped_tokens_are_zero_and_the_others_are_not() -> None:
    cache = NativeCache(native_config(), num_slots=2, max_tokens=64)
    cache.key.fill_(torch.nan)
    cache.value.fill_(torch.nan)
    cache.clear(1, 5, 40)
    for tensor in cache.tokens(1, 64):
        assert not tensor[:, :, 5:40].any()
        assert bool(tensor[:, :, :5].isnan().all())
        assert bool(tensor[:, :, 40:].isnan().all())
    assert all(bool(tensor.isnan().all()) for tensor in cache.tokens(0, 64))
