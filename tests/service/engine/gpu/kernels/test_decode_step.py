"""A decode step in Triton's interpreter is its definition: every form of every kernel."""

import dataclasses

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from decode_oracle import DecodeCase, decode_config, reference_step

from service.engine.gpu.availability import why_no_shape
from service.engine.gpu.kernels.choices import AttentionChoice, Choices, ProductChoice
from service.engine.gpu.kernels.decode_step import DecodeStep

SUMS = ProductChoice("sums", outputs=64)
PARTS = ProductChoice("parts", rows=16, outputs=64)
TILES = ProductChoice("tiles", rows=16, outputs=64)
LOOP = ProductChoice("loop", rows=16, outputs=64, inner=32)
CUBLAS = ProductChoice("cublas")
FORMS = [SUMS, TILES, PARTS, LOOP, CUBLAS]
TOKENS = 70


def choices(product: ProductChoice, *, splits: int, keys: int, tensor_cores: bool) -> Choices:
    attention = AttentionChoice(splits, keys, tensor_cores)
    return Choices(product, product, product, product, product, attention)


def check(case: DecodeCase, chosen: Choices, steps: int = 1) -> None:
    """Logits, cache and finiteness; a second step goes on in the first one's slots."""
    before = case.copy_of_cache()
    count = len(case.rows.slots)
    logits = torch.full((count, case.config.vocab_size), torch.nan)
    is_finite = torch.zeros(count, dtype=torch.bool)
    alive = case.rows.slots >= 0
    step = DecodeStep(case.config, case.weights, case.cache, case.rows, logits, is_finite, chosen)
    for _ in range(steps):
        expected = reference_step(case, before)
        step.compute()
        torch.testing.assert_close(logits[alive].double(), expected[alive], atol=1e-4, rtol=1e-4)
        for held, wanted in ((case.cache.key, before.key), (case.cache.value, before.value)):
            torch.testing.assert_close(held, wanted, atol=1e-4, rtol=1e-4, equal_nan=True)
        assert is_finite[alive].all()
        grows = alive & (case.rows.positions < TOKENS - 1)
        case.rows.positions.add_(grows.int())
        case.rows.token_ids.fill_(-1)
        case.rows.last_tokens.copy_((case.rows.last_tokens + 1) % case.config.vocab_size)


@pytest.mark.parametrize(
    ("head_dim", "heads", "shared"), [(32, 3, 1), (64, 2, 2), (64, 6, 2), (128, 4, 1), (48, 2, 1)]
)
@pytest.mark.parametrize("tensor_cores", [False, True], ids=["elementwise", "tensor-cores"])
def test_heads_of_every_kind(head_dim: int, heads: int, shared: int, tensor_cores: bool) -> None:
    case = DecodeCase.drawn(decode_config(head_dim, heads, shared), [37, -1, 0], TOKENS)
    check(case, choices(LOOP, splits=2, keys=16, tensor_cores=tensor_cores))


@pytest.mark.parametrize(
    "product", [SUMS, TILES, PARTS, LOOP, CUBLAS], ids=lambda choice: choice.form
)
@pytest.mark.parametrize("splits", [1, 4])
def test_products_of_every_form(product: ProductChoice, splits: int) -> None:
    config = decode_config(32, 3, 1, num_hidden_layers=splits // 2 or 1)
    case = DecodeCase.drawn(config, [68, -1, 0, 31, 32], TOKENS)
    check(case, choices(product, splits=splits, keys=16, tensor_cores=splits == 1), steps=2)


@pytest.mark.parametrize(
    ("count", "product"), [(1, SUMS), (2, SUMS), (16, PARTS), (16, TILES), (33, LOOP), (33, PARTS)]
)
def test_one_to_many_rows(count: int, product: ProductChoice) -> None:
    positions = [(23 * row + 69) % TOKENS for row in range(count)]
    case = DecodeCase.drawn(decode_config(32, 3, 1), positions, TOKENS)
    check(case, choices(product, splits=1 if count > 16 else 2, keys=32, tensor_cores=True))


def test_a_slot_is_used_again() -> None:
    """What a longer sequence left behind is not read, be it NaN."""
    case = DecodeCase.drawn(decode_config(32, 2, 2), [5, 40], TOKENS)
    case.cache.key[:, case.rows.slots[0], :, 5:] = torch.nan
    case.cache.value[:, case.rows.slots[0], :, 5:] = torch.inf
    check(case, choices(PARTS, splits=4, keys=16, tensor_cores=True))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "product", [SUMS, TILES, PARTS, LOOP, CUBLAS], ids=lambda choice: choice.form
)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_row_that_is_not_finite_is_named(product: ProductChoice, bad: float) -> None:
    case = DecodeCase.drawn(decode_config(32, 1, 1), [3, 9, 4], TOKENS)
    case.rows.token_ids.copy_(torch.tensor([7, 8, 9]))
    case.weights.embedding[8, 5] = bad
    logits, is_finite = torch.zeros(3, 50), torch.zeros(3, dtype=torch.bool)
    untied = dataclasses.replace(case.weights, head=torch.ones(50, 32))
    chosen = choices(product, splits=1, keys=16, tensor_cores=True)
    DecodeStep(case.config, untied, case.cache, case.rows, logits, is_finite, chosen).compute()
    assert is_finite.tolist() == [True, False, True]
    assert logits[[0, 2]].isfinite().all()


def test_shapes_that_the_kernels_do_not_know_are_refused_by_name() -> None:
    assert why_no_shape(decode_config(64, 9, 3)) is None
    assert why_no_shape(decode_config(16, 2, 1)) == ("head_dim 16 is no even number from 32 to 128")
    learned = dataclasses.replace(decode_config(64, 2, 1), positions="learned")
    assert why_no_shape(learned) == "the model is not of the plain Llama shape"
