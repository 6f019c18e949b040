"""The sampler's kernels against ``lm.sampling``, in Triton's interpreter or on a card."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lm.sampling import MAX_SEED, SamplingParams

pytest.importorskip("triton", reason="the kernels are Triton's")

from service.engine.gpu.sampling.rows import SamplingRows
from service.engine.gpu.sampling.sampler import DeviceSampler, SamplerTuning
from service.engine.gpu.sampling.variant import Variant
from tests.service.engine.gpu.sampling.reference import (
    UNTOUCHED,
    Draw,
    assert_as_defined,
    device_tokens,
    fill,
    reference_tokens,
)

CPU = torch.device("cpu")
SMALL = SamplerTuning(group=8, tokens_a_program=64, tile=64, few=32, capacity=80)
"""Every loop is taken more than once, and lists overflow, at a vocabulary of a hundred tokens."""
WIDE = SamplerTuning(tokens_a_program=4096, tile=4096)
"""Few steps of the interpreter for large vocabularies."""

EXTREMES: list[dict[str, float]] = [
    {"temperature": 0.0},
    {"temperature": 1e-6},
    {"temperature": 1e-5},
    {"temperature": 100.0},
    {},
    {"top_k": 1},
    {"top_k": 50},
    {"top_k": 50, "top_p": 0.95},
    {"top_k": 10**12},
    {"top_p": 1e-9},
    {"top_p": 0.5},
    {"top_p": 0.999999},
    {"min_p": 1.0},
    {"min_p": 0.1},
    {"min_p": 1e-4, "temperature": 2.0},
    {"top_k": 300, "top_p": 0.9, "min_p": 0.01, "temperature": 0.7},
]


def kinds_of_logits(vocab_size: int, seed: int) -> dict[str, torch.Tensor]:
    normal = torch.randn(vocab_size, generator=torch.Generator().manual_seed(seed))
    peaked = normal.clone()
    peaked[vocab_size // 3] = 30.0
    alone = torch.full((vocab_size,), -torch.inf)
    alone[-1] = 2.5
    return {
        "random": normal * 4,
        "peaked": peaked,
        "flat": normal * 0.01,
        "equal": torch.zeros(vocab_size),
        "tied": (normal * 2).round(),
        "masked": (normal * 3).masked_fill(normal.abs() < 1.8, -torch.inf),
        "last alone": alone,
    }


@pytest.mark.parametrize(
    ("vocab_size", "tuning", "kind"),
    [
        pytest.param(
            *(vocab_size, tuning, kind),
            marks=[] if vocab_size < 1000 or kind in {"random", "tied"} else pytest.mark.slow,
        )
        for vocab_size, tuning in [(131, SMALL), (1000, SamplerTuning()), (4099, WIDE)]
        for kind in kinds_of_logits(4, 0)
    ],
)
def test_rows_of_all_parameters_draw_as_defined(
    vocab_size: int, tuning: SamplerTuning, kind: str
) -> None:
    """One step mixes greedy, drawn and filtered rows."""
    logits = kinds_of_logits(vocab_size, 5)[kind]
    draws = [
        Draw(logits=logits.roll(n), params=SamplingParams(seed=n, **extreme), index=n)  # type: ignore[arg-type]
        for n, extreme in enumerate(EXTREMES)
    ]
    assert_as_defined(draws, device_tokens(draws, tuning=tuning))


VOCAB_SIZE = 101
PARAMS = st.builds(
    SamplingParams,
    temperature=st.one_of(st.just(0.0), st.floats(0.1, 3.0), st.floats(1e-5, 100.0)),
    top_k=st.one_of(st.just(0), st.integers(0, VOCAB_SIZE + 2)),
    top_p=st.one_of(st.just(1.0), st.floats(1e-3, 1.0)),
    min_p=st.one_of(st.just(0.0), st.floats(0.0, 1.0)),
    seed=st.integers(0, MAX_SEED),
)


@settings(derandomize=True, deadline=None, max_examples=15, phases=[Phase.explicit, Phase.generate])
@given(
    rows=st.lists(st.tuples(PARAMS, st.integers(0, 10_000)), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
    decimals=st.sampled_from([None, 0, 1]),
    spread=st.sampled_from([0.1, 1.0, 4.0, 20.0]),
)
def test_any_rows_draw_as_defined(
    rows: list[tuple[SamplingParams, int]], seed: int, decimals: int | None, spread: float
) -> None:
    logits = torch.randn(len(rows), VOCAB_SIZE, generator=torch.Generator().manual_seed(seed))
    logits = logits * spread if decimals is None else (logits * spread).round(decimals=decimals)
    draws = [
        Draw(logits=row, params=params, index=index)
        for row, (params, index) in zip(logits, rows, strict=True)
    ]
    assert_as_defined(draws, device_tokens(draws, tuning=SMALL))


@pytest.mark.parametrize("variant", Variant)
def test_every_variant_takes_the_first_of_the_likeliest_for_greedy_rows(variant: Variant) -> None:
    logits = torch.tensor([0.0, 3.0, -1.0, 3.0, 2.0]).repeat(2, 20)
    draws = [Draw(logits=row, params=SamplingParams(temperature=0.0)) for row in logits]
    assert device_tokens(draws, variant, SMALL) == reference_tokens(draws) == [1, 1]


@pytest.mark.parametrize(
    "variant", [Variant.TEMPERATURE, Variant.FILTERED, Variant.ADJUSTED_TEMPERATURE]
)
def test_a_plain_draw_is_the_same_in_every_variant_that_draws(variant: Variant) -> None:
    generator = torch.Generator().manual_seed(9)
    draws = [
        Draw(logits=torch.randn(300, generator=generator), params=SamplingParams(seed=n), index=n)
        for n in range(16)
    ]
    drawn = device_tokens(draws, variant, SMALL)
    assert_as_defined(draws, drawn)
    assert len(set(drawn)) > 10


def test_a_dead_row_writes_nothing() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(2))
    draws = [Draw(logits=row, params=SamplingParams(seed=5)) for row in logits]
    rows = SamplingRows.empty(3, CPU)
    fill(rows, draws, [4, -1, 0])
    tokens = torch.full((3,), UNTOUCHED, dtype=torch.int32)
    last_tokens = torch.full((6,), UNTOUCHED, dtype=torch.int32)
    DeviceSampler(3, 50, CPU).compute(Variant.TEMPERATURE, logits, rows, tokens, last_tokens)
    first, _, third = reference_tokens(draws)
    assert tokens.tolist() == [first, UNTOUCHED, third]
    assert last_tokens.tolist() == [third, *[UNTOUCHED] * 3, first, UNTOUCHED]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("broken", [-torch.inf, torch.nan, torch.inf])
@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_rows_without_numbers_still_give_tokens_of_the_vocabulary(
    broken: float, top_p: float
) -> None:
    """Whoever reads the logits finds the fault; the next step must not read past the embedding."""
    logits = torch.full((77,), broken)
    params = [SamplingParams(temperature=t, top_p=top_p) for t in (0.0, 1.0)]
    draws = [Draw(logits=logits, params=p) for p in params]
    assert all(0 <= token < 77 for token in drawn_despite_warnings(draws))
    mixed = logits.clone()
    mixed[:40] = 1.0
    draws = [Draw(logits=mixed, params=p) for p in params]
    assert all(0 <= token < 77 for token in drawn_despite_warnings(draws))


def drawn_despite_warnings(draws: list[Draw]) -> list[int]:
    """NaN is unequal to itself: no comparison of logits before and after."""
    logits = torch.stack([draw.logits for draw in draws])
    rows = SamplingRows.empty(len(draws), CPU)
    fill(rows, draws, list(range(len(draws))))
    tokens = torch.full((len(draws),), UNTOUCHED, dtype=torch.int32)
    sampler = DeviceSampler(len(draws), logits.shape[-1], CPU, SMALL)
    sampler.compute(Variant.FILTERED, logits, rows, tokens, tokens.clone())
    drawn: list[int] = tokens.tolist()
    return drawn


def test_a_large_vocabulary_has_larger_groups() -> None:
    sampler = DeviceSampler(1, 5000, CPU, SamplerTuning(group=8, max_groups=100))
    assert (sampler.group, sampler.num_groups) == (64, 79)
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(4)) * 3
    draws = [Draw(logits=logits, params=SamplingParams(seed=n, top_p=0.9)) for n in range(3)]
    tuning = SamplerTuning(group=8, max_groups=100, tile=4096, tokens_a_program=4096)
    assert_as_defined(draws, device_tokens(draws, tuning=tuning))
