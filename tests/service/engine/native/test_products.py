"""Single products: equal to their definition, and the same for a row wherever it is."""

import pytest
import torch
from serving.native import ISAS, PRECISIONS, open_native
from torch import Tensor

from service.engine.native.library import FORMATS, Library
from service.engine.native.packing import pack_matrix
from service.engine.native.reference import linear, served_weight


def native_linear(library: Library, x: Tensor, weight: Tensor, precision: str) -> Tensor:
    """x [M, K] times a packed weight [N, K]."""
    outputs, inputs = weight.shape
    packed = pack_matrix(library, weight, precision)
    out = torch.empty(len(x), -(-outputs // 32) * 32)
    library.functions.nestling_multiply(
        library.pool,
        *(FORMATS[precision], packed.data_ptr(), outputs, inputs),
        *(x.data_ptr(), len(x), out.data_ptr()),
    )
    return out[:, :outputs]


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Numbers with a few large ones among them, as activations have."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    x[..., 5] *= 30.0
    return x


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [1, 3, 12, 13, 40])
@pytest.mark.parametrize(("outputs", "inputs"), [(32, 32), (50, 96), (96, 576)])
def test_a_product_is_its_definition(
    isa: str, precision: str, rows: int, outputs: int, inputs: int
) -> None:
    x, weight = normal(rows, inputs), normal(outputs, inputs, seed=1)
    out = native_linear(open_native(isa), x, weight, precision)
    expected = linear(open_native(isa), x, weight, precision)
    largest = float(expected.abs().max())
    torch.testing.assert_close(out, expected, rtol=0.0, atol=3e-6 * largest)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_zeros_and_tiny_numbers_stay_finite(isa: str, precision: str) -> None:
    x, weight = normal(4, 64), normal(32, 64, seed=1)
    x[1], x[2] = 0.0, 1e-38
    weight[3] = 0.0
    out = native_linear(open_native(isa), x, weight, precision)
    torch.testing.assert_close(out[1], torch.zeros(32), rtol=0.0, atol=0.0)
    assert bool(out.isfinite().all())
    assert not out[:, 3].any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_not_finite_is_not_lost(isa: str, precision: str) -> None:
    x, weight = normal(3, 64), normal(32, 64, seed=1)
    x[0, 7], x[2, 9] = torch.nan, torch.inf
    out = native_linear(open_native(isa), x, weight, precision)
    assert not out[0].isfinite().any()
    assert not out[2].isfinite().any()
    assert bool(out[1].isfinite().all())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_does_not_depend_on_its_neighbours(isa: str, precision: str, threads: int) -> None:
    library = open_native(isa, threads)
    x, weight = normal(32, 576), normal(96, 576, seed=1)
    whole = native_linear(library, x, weight, precision)
    for rows in range(1, 33):
        part = native_linear(library, x[32 - rows :].contiguous(), weight, precision)
        assert torch.equal(part, whole[32 - rows :]), f"{rows} rows"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_instruction_sets_agree(precision: str) -> None:
    x, weight = normal(7, 96), normal(64, 96, seed=1)
    first, *others = (native_linear(open_native(isa), x, weight, precision) for isa in ISAS)
    largest = float(first.abs().max())
    for other in others:
        torch.testing.assert_close(first, other, rtol=0.0, atol=3e-6 * largest)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_largest_products_do_not_overflow(isa: str, precision: str) -> None:
    """AVX2 adds pairs of bytes' products in 16 bits, and all of a group of nibbles'."""
    weight = torch.ones(32, 128)
    weight[:, ::32] = 0.0  # so that the other nibbles are 15
    weight[1::2] *= -1.0
    x = torch.ones(3, 128)
    x[1], x[2, ::2] = -1.0, -1.0
    out = native_linear(open_native(isa), x, weight, precision)
    expected = linear(open_native(isa), x, weight, precision)
    torch.testing.assert_close(out, expected, rtol=0.0, atol=1e-3)
    assert float(out.abs().max()) == pytest.approx(124.0, rel=0.01)


@pytest.mark.parametrize("isa", ISAS)
def test_four_bits_lose_less_than_plain_rounding_would(isa: str) -> None:
    weight = normal(64, 576, seed=2)
    groups = weight.view(64, -1, 32)
    least = groups.amin(-1, keepdim=True)
    step = (groups.amax(-1, keepdim=True) - least) / 15
    plain = (((groups - least) / step).round() * step + least).flatten(1)
    served = served_weight(open_native(isa), weight, "int4")
    error, plain_error = ((w - weight).square().sum() for w in (served, plain))
    assert float(error) < 0.97 * float(plain_error)


def test_weights_on_a_grid_of_16_values_survive_four_bits() -> None:
    """As those of a GGUF file of 4 bits that was read back."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randint(0, 16, (32, 2, 32), generator=generator)
    q[..., 0], q[..., 1] = 0, 15
    weight = (q * 0.125 - 1.25).flatten(1)
    served = served_weight(open_native(), weight, "int4")
    torch.testing.assert_close(served.float(), weight, rtol=0.0, atol=0.0)
