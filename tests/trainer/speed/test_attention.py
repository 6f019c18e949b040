import pytest
import torch

from lm.attention import CausalAttention
from trainer.speed.attention import LONGEST_SHORT_ROW, ShortCausalAttention, training_attention


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)])
def test_values_and_gradients_are_those_of_the_fused_kernel(heads: tuple[int, int]) -> None:
    query_heads, key_heads = heads
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, query_heads, 7, 8), (2, key_heads, 7, 8), (2, key_heads, 7, 8)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    results = []
    for attend in (ShortCausalAttention(), CausalAttention()):
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        out = attend(0, *inputs)
        (out * out).sum().backward()
        results.append([out, *(tensor.grad for tensor in inputs)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_it_computes_in_the_dtype_of_the_values_under_autocast() -> None:
    query = key = torch.randn(1, 2, 5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = ShortCausalAttention()(0, query, key, torch.randn(1, 2, 5, 4, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16


def test_dropout_draws_from_the_global_generator_and_keeps_the_mean() -> None:
    value = torch.ones(1, 1, 64, 8)
    query = key = torch.zeros(1, 1, 64, 8)
    outs = []
    for _ in range(2):
        torch.manual_seed(0)
        outs.append(ShortCausalAttention(0.5)(0, query, key, value))
    assert torch.equal(*outs)
    assert not torch.equal(outs[0], value)
    assert float(outs[0].mean()) == pytest.approx(1.0, abs=0.2)


def test_long_rows_keep_the_fused_kernel() -> None:
    short = torch.zeros(1, LONGEST_SHORT_ROW, dtype=torch.int64)
    assert isinstance(training_attention(short, 0.0), ShortCausalAttention)
    longer = torch.zeros(1, LONGEST_SHORT_ROW + 1, dtype=torch.int64)
    assert isinstance(training_attention(longer, 0.1), CausalAttention)
