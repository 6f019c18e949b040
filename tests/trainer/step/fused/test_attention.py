import pytest
import torch

from lm.model.attention import CausalAttention
from trainer.step.fused import attention
from trainer.step.fused.attention import LONGEST_ROW, BlockwiseAttention, training_attention


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("length", [1, 3, 4, 7, 12])
def test_values_and_gradients_are_those_of_the_fused_kernel(
    heads: tuple[int, int], length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "BLOCK", 4)
    query_heads, key_heads = heads
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, count, length, 8) for count in (query_heads, key_heads, key_heads)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    results = []
    for attend in (BlockwiseAttention(), CausalAttention()):
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        out = attend(0, *inputs)
        (out * out).sum().backward()
        results.append([out, *(tensor.grad for tensor in inputs)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_it_computes_in_the_dtype_of_the_values_under_autocast() -> None:
    query = key = torch.randn(1, 2, 5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = BlockwiseAttention()(0, query, key, torch.randn(1, 2, 5, 4, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16


def test_dropout_draws_from_the_global_generator_and_keeps_the_mean() -> None:
    value = torch.ones(1, 1, 64, 8)
    query = key = torch.zeros(1, 1, 64, 8)
    outs = []
    for _ in range(2):
        torch.manual_seed(0)
        outs.append(BlockwiseAttention(0.5)(0, query, key, value))
    assert torch.equal(*outs)
    assert not torch.equal(outs[0], value)
    assert float(outs[0].mean()) == pytest.approx(1.0, abs=0.2)


def test_gradients_under_dropout_are_those_of_the_masks_that_were_drawn() -> None:
    """A small step along the gradient changes the output as the gradient says."""
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(1, heads, 9, 4, generator=generator, dtype=torch.float64).requires_grad_()
        for heads in (4, 2, 2)
    ]

    def attend(*tensors: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return BlockwiseAttention(0.4)(0, *tensors)

    assert torch.autograd.gradcheck(attend, inputs)


def test_in_half_precision_sums_over_blocks_stay_as_exact_as_the_fused_kernel_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "BLOCK", 8)
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(1, 2, 256, 16, generator=generator) for _ in range(3)]
    errors = []
    for attend in (BlockwiseAttention(), CausalAttention()):
        grads = []
        for dtype in (torch.float32, torch.bfloat16):
            inputs = [tensor.to(dtype, copy=True).requires_grad_() for tensor in exact]
            attend(0, *inputs).sum().backward()
            grads.append([tensor.grad.float() for tensor in inputs])
        errors.append([float((a - b).norm() / a.norm()) for a, b in zip(*grads, strict=True)])
    assert all(ours < 1.5 * theirs for ours, theirs in zip(*errors, strict=True)), errors


def test_very_long_rows_keep_the_fused_kernel() -> None:
    short = torch.zeros(1, LONGEST_ROW, dtype=torch.int64)
    assert isinstance(training_attention(short, 0.0), BlockwiseAttention)
    longer = torch.zeros(1, LONGEST_ROW + 1, dtype=torch.int64)
    assert isinstance(training_attention(longer, 0.1), CausalAttention)
