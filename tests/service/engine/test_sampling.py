"""The batched sampler against its definition, ``lm.sampling.sample``, row by row."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lm.sampling import MAX_SEED, SamplingParams, sample
from service.engine.sampling import sample_rows

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


def random_logits(rows: int, seed: int, *, ties: bool = False) -> Tensor:
    """Logits of a plausible spread; with ``ties`` many are equal."""
    logits = torch.randn(rows, VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * 4
    return logits.round() if ties else logits


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


@settings(derandomize=True, deadline=None, max_examples=60)
@given(rows=ROWS, seed=st.integers(0, 2**31), data=st.data())
def test_a_row_does_not_depend_on_its_batch_mates(
    rows: list[tuple[SamplingParams, int]], seed: int, data: st.DataObject
) -> None:
    logits = random_logits(len(rows), seed)
    params, indices = [row[0] for row in rows], [row[1] for row in rows]
    together = sample_rows(logits, params, indices)
    chosen = data.draw(st.lists(st.sampled_from(range(len(rows))), min_size=1))
    apart = sample_rows(
        logits[chosen], [params[row] for row in chosen], [indices[row] for row in chosen]
    )
    assert apart == [together[row] for row in chosen]


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


def test_no_rows_are_no_tokens() -> None:
    assert sample_rows(torch.empty(0, VOCAB_SIZE), [], []) == []
