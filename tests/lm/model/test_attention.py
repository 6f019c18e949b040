import math

import pytest
import torch
from torch import Tensor

from lm.model.attention import CausalAttention


def heads(num_heads: int, *, tokens: int = 6, seed: int) -> Tensor:
    return torch.randn(2, num_heads, tokens, 8, generator=torch.Generator().manual_seed(seed))


def spelled_out(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention as the paper writes it, one query head and one token at a time."""
    out = torch.zeros_like(query)
    group = query.shape[1] // key.shape[1]
    for row in range(query.shape[0]):
        for head in range(query.shape[1]):
            keys, values = key[row, head // group], value[row, head // group]
            for token in range(query.shape[2]):
                scores = keys[: token + 1] @ query[row, head, token] / math.sqrt(8)
                out[row, head, token] = scores.softmax(-1) @ values[: token + 1]
    return out


@pytest.mark.parametrize("key_value_heads", [4, 2, 1])
def test_attention_is_causal_softmax_with_shared_key_heads(key_value_heads: int) -> None:
    query, key, value = (
        heads(4, seed=1),
        heads(key_value_heads, seed=2),
        heads(key_value_heads, seed=3),
    )
    mixed = CausalAttention()(0, query, key, value)
    torch.testing.assert_close(mixed, spelled_out(query, key, value))


def test_the_first_token_sees_itself_alone() -> None:
    query, key, value = heads(2, seed=1), heads(2, seed=2), heads(2, seed=3)
    mixed = CausalAttention()(0, query, key, value)
    torch.testing.assert_close(mixed[:, :, 0], value[:, :, 0])


def test_the_layer_does_not_matter() -> None:
    query, key, value = heads(2, seed=1), heads(2, seed=2), heads(2, seed=3)
    attend = CausalAttention()
    assert torch.equal(attend(0, query, key, value), attend(7, query, key, value))


def test_dropout_removes_whole_weights_and_scales_up_the_rest() -> None:
    torch.manual_seed(0)
    ones = torch.ones(1, 1, 1, 8).expand(1, 1, 400, 8)
    mixed = CausalAttention(dropout=0.5)(0, ones, ones, ones)
    assert mixed.unique().numel() > 1
    assert float(mixed[:, :, 100:].mean()) == pytest.approx(1.0, abs=0.05)
