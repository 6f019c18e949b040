"""Row-wise kernels, interpreted, against PyTorch."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="the kernels are written in Triton")

from lm.model.rotary import rotary_table, rotate
from service.engine.gpu.flat.rotate_write import rotate_write
from service.engine.gpu.flat.rowwise import add_norm, embed_norm, gather_rows, silu_mul
from service.engine.gpu.kernels.launch import Launch
from service.engine.gpu.tensors import StepRows

EPS = 1e-5


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize("width", [32, 72, 576])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embedding_takes_given_or_drawn_tokens_and_leaves_dead_rows_zero(
    width: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    embedding, weight = torch.randn(20, width).to(dtype), torch.rand(width).to(dtype)
    rows = StepRows(
        token_ids=ints(3, -1, 7, 19, -1),
        positions=ints(0, 4, 0, 1, 0),
        slots=ints(0, 2, -1, 1, -1),
        last_tokens=ints(11, 12, 13),
    )
    x, out = torch.empty(5, width), torch.empty(5, width, dtype=dtype)
    embed_norm(rows, embedding, weight, EPS, x, out)
    expected = embedding[torch.tensor([3, 13, 0, 19, 0])].float()
    expected[[2, 4]] = 0
    assert torch.equal(x, expected)
    norm = F.rms_norm(expected, (width,), weight.float(), EPS)
    torch.testing.assert_close(out, norm.to(dtype))


@pytest.mark.parametrize("width", [32, 72, 576])
def test_residual_and_norm(width: int) -> None:
    torch.manual_seed(0)
    x, delta, weight = torch.randn(3, width), torch.randn(3, width), torch.rand(width)
    expected, out = x + delta, torch.empty(3, width)
    add_norm(x, delta, weight, EPS, out)
    assert torch.equal(x, expected)
    torch.testing.assert_close(out, F.rms_norm(expected, (width,), weight, EPS))


@pytest.mark.parametrize("inner", [16, 96, 1100])
def test_silu_times_up(inner: int) -> None:
    torch.manual_seed(0)
    gate_up, out = 4 * torch.randn(3, 2 * inner), torch.empty(3, inner)
    silu_mul(gate_up, out)
    torch.testing.assert_close(out, F.silu(gate_up[:, :inner]) * gate_up[:, inner:])


@pytest.mark.parametrize("flag", [torch.bool, torch.int8])
def test_rows_that_yield_and_whether_they_are_finite(flag: torch.dtype) -> None:
    hidden = torch.randn(5, 24)
    hidden[1, 3], hidden[2, 23], hidden[4, 0] = torch.nan, torch.inf, -torch.inf
    out, is_finite = torch.empty(6, 24), torch.zeros(6, dtype=flag)
    indices = [3, 2, -1, 0, 1, 4]
    gather_rows(hidden, ints(*indices), out, is_finite)
    expected = hidden[indices]
    expected[2] = 0
    torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)
    assert is_finite.tolist() == [1, 0, 1, 1, 0, 0]


@pytest.mark.parametrize("head_dim", [32, 48, 64, 128])
@pytest.mark.parametrize(("heads", "shared"), [(2, 2), (3, 1), (4, 1)])
def test_rotation_and_cache(head_dim: int, heads: int, shared: int) -> None:
    torch.manual_seed(0)
    positions, slots = [0, 1, 15, 6, 5], [2, 2, 0, -1, 1]
    qkv = torch.randn(5, (heads + 2 * shared) * head_dim)
    cos, sin = rotary_table(16, head_dim, 10_000.0)
    key, value = (torch.full((3, shared, 16, head_dim), torch.nan) for _ in range(2))
    rows = StepRows(
        token_ids=ints(0, 0, 0, 0, 0),
        positions=ints(*positions),
        slots=ints(*slots),
        last_tokens=ints(0, 0, 0),
    )
    before = qkv.view(5, -1, head_dim).clone()
    rotate_write(
        qkv,
        *(t[:, : head_dim // 2].contiguous() for t in (cos, sin)),
        rows,
        key,
        value,
        Launch(dependent=False),
    )
    turned = rotate(before, cos[positions][:, None], sin[positions][:, None])
    after = qkv.view(5, -1, head_dim)
    expected_key, expected_value = torch.full_like(key, torch.nan), torch.full_like(key, torch.nan)
    for row, (slot, position) in enumerate(zip(slots, positions, strict=True)):
        expected = turned if slot >= 0 else before
        torch.testing.assert_close(after[row, :heads], expected[row, :heads])
        if slot >= 0:
            expected_key[slot, :, position] = turned[row, heads : heads + shared]
            expected_value[slot, :, position] = before[row, heads + shared :]
    assert torch.equal(after[:, heads:], before[:, heads:])
    torch.testing.assert_close(key, expected_key, equal_nan=True)
    torch.testing.assert_close(value, expected_value, equal_nan=True)
