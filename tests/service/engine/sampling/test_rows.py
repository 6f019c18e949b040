"""The sampler against its definition, ``lm.sampling.sample``."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lm.sampling import MAX_SEED, SamplingParams, sample
from service.engine.sampling.rows import _invert, sample_row

VOCAB_SIZE = 50

PARAMS = st.builds(
    SamplingParams,
    temperature=st.one_of(st.just(0.0), st.floats(0.0, 3.0), st.floats(1e-5, 100.0)),
    top_k=st.integers(0, VOCAB_SIZE + 2),
    top_p=st.one_of(st.just(1.0), st.floats(1e-3, 1.0), st.just(math.nextafter(1.0, 0.0))),
    min_p=st.one_of(st.just(0.0), st.floats(0.0, 1.0)),
    seed=st.integers(0, MAX_SEED),
)

ROWS = st.lists(st.tuples(PARAMS, st.integers(0, 10_000)), min_size=1, max_size=9)


def random_logits(
    rows: int, seed: int, *, ties: bool = False, vocab_size: int = VOCAB_SIZE
) -> Tensor:
    """Logits of a plausible spread; with ``ties`` many are equal."""
    logits = torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * 4
    return logits.round() if ties else logits


def sample_rows(logits: Tensor, params: list[SamplingParams], indices: list[int]) -> list[int]:
    return [
        sample_row(row, row_params, index)
        for row, row_params, index in zip(logits, params, indices, strict=True)
    ]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(rows=ROWS, seed=st.integers(0, 2**31), ties=st.booleans(), double=st.booleans())
def test_every_row_is_what_sampling_it_alone_gives(
    rows: list[tuple[SamplingParams, int]], seed: int, ties: bool, double: bool
) -> None:
    logits = random_logits(len(rows), seed, ties=ties)
    if double:
        logits = logits.double()
    params, indices = [row[0] for row in rows], [row[1] for row in rows]
    expected = [
        sample(row, row_params, index)
        for row, row_params, index in zip(logits, params, indices, strict=True)
    ]
    assert sample_rows(logits, params, indices) == expected


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {"temperature": 0.7},
        {"temperature": 30.0},
        {"top_k": 1},
        {"top_k": 50},
        {"top_k": 700},
        {"top_k": 5000},
        {"top_p": 0.9},
        {"top_p": 0.999},
        {"top_k": 40, "top_p": 0.8},
        {"min_p": 0.02},
        {"temperature": 1.3, "top_k": 200, "top_p": 0.95, "min_p": 0.01},
    ],
    ids=str,
)
@pytest.mark.parametrize("vocab_size", [49_152, 5_003])
def test_a_large_vocabulary_is_drawn_from_as_defined(
    kept: dict[str, float], vocab_size: int
) -> None:
    """Its many probabilities are summed up in blocks."""
    logits = random_logits(4, 1, vocab_size=vocab_size)
    logits[1] = logits[1].round()
    logits[2, ::3] = -torch.inf
    for row in logits:
        params = SamplingParams(seed=9, **kept)  # type: ignore[arg-type]
        expected = [sample(row, params, index) for index in range(12)]
        assert [sample_row(row, params, index) for index in range(12)] == expected


def test_what_has_no_probability_is_never_drawn_from_a_large_vocabulary() -> None:
    """Also where rounding puts the number at the very end of a block."""
    logits = torch.full((49_152,), -torch.inf)
    allowed = {63, 64, 700, 40_000}
    logits[list(allowed)] = torch.tensor([1.0, 1.1, 0.9, 1.0])
    params = [SamplingParams(seed=seed) for seed in range(200)]
    assert {sample_row(logits, row, 0) for row in params} == allowed
    assert {_invert(logits.numpy(), number) for number in (0.0, math.nextafter(1.0, 0.0))} == {
        63,
        40_000,
    }


@pytest.mark.parametrize("top_p", [1e-30, 1e-50, 1e-300])
def test_a_tiny_top_p_keeps_the_likeliest_token(top_p: float) -> None:
    logits = random_logits(2, 0)
    params = [SamplingParams(top_p=top_p, seed=seed) for seed in range(2)]
    assert sample_rows(logits, params, [0, 1]) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-5, 1e-6, 1e-40, 1e-300])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    logits = random_logits(2, 0)
    params = [SamplingParams(temperature=temperature, seed=seed) for seed in range(2)]
    assert sample_rows(logits, params, [0, 1]) == logits.argmax(-1).tolist()


def test_rows_that_are_not_numbers_still_give_known_ids() -> None:
    """Else the next step of everybody would fail on an id that the embedding does not have."""
    logits = random_logits(3, 0)
    logits[0], logits[1, 5] = torch.nan, torch.nan
    params = [SamplingParams(seed=1), SamplingParams(top_k=3, top_p=0.5), SamplingParams()]
    token_ids = sample_rows(logits, params, [0, 0, 0])
    assert all(0 <= token_id < VOCAB_SIZE for token_id in token_ids)
    assert token_ids[2] == sample(logits[2], params[2], 0)
