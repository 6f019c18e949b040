"""The sampler of a GPU's rows against its definition, ``lm.sampling.sample``."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import generation_request
from toys import toy_tokenizer

from lm.sampling import MAX_SEED, SamplingParams, sample
from service.engine.sampling.device import sample_rows
from service.engine.sampling.rows import draw
from service.engine.scheduling.plan import Chunk, Plan
from service.engine.scheduling.sequence import Sequence

VOCAB_SIZE = 50
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()

PARAMS = st.builds(
    SamplingParams,
    temperature=st.one_of(st.floats(0.1, 3.0), st.floats(1e-5, 100.0)),
    top_k=st.integers(0, VOCAB_SIZE + 2),
    top_p=st.one_of(st.just(1.0), st.floats(1e-3, 1.0)),
    min_p=st.one_of(st.just(0.0), st.floats(0.0, 1.0)),
    seed=st.integers(0, MAX_SEED),
)
ROWS = st.lists(st.tuples(PARAMS, st.integers(0, 10_000)), min_size=1, max_size=9)


def by_definition(
    logits: torch.Tensor, params: list[SamplingParams], indices: list[int]
) -> list[int]:
    return [sample(*row) for row in zip(logits, params, indices, strict=True)]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(rows=ROWS, seed=st.integers(0, 2**31), ties=st.booleans())
def test_every_row_is_what_sampling_it_alone_gives(
    rows: list[tuple[SamplingParams, int]], seed: int, ties: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(rows), VOCAB_SIZE, generator=generator) * 4
    logits = logits.round() if ties else logits
    params, indices = [row[0] for row in rows], [row[1] for row in rows]
    assert sample_rows(logits, params, indices) == by_definition(logits, params, indices)


@pytest.mark.parametrize("device", DEVICES)
def test_a_large_vocabulary_is_drawn_from_as_defined(device: str) -> None:
    """Sums on another device round otherwise: a draw in thousands may fall to a neighbour."""
    kept: list[dict[str, float]] = [
        {},
        {"temperature": 0.7},
        {"top_k": 1},
        {"top_k": 700},
        {"top_p": 0.9},
        {"top_k": 40, "top_p": 0.8},
        {"min_p": 0.02},
        {"temperature": 1.3, "top_k": 200, "top_p": 0.95, "min_p": 0.01},
    ]
    params = [SamplingParams(seed=n, **kept[n % len(kept)]) for n in range(400)]  # type: ignore[arg-type]
    logits = torch.randn(400, 49_152, generator=torch.Generator().manual_seed(1)) * 4
    indices = list(range(400))
    wanted = by_definition(logits, params, indices)
    drawn = sample_rows(logits.to(device), params, indices)
    unequal = sum(a != b for a, b in zip(drawn, wanted, strict=True))
    assert unequal <= (0 if device == "cpu" else 2)
    assert len(set(drawn)) > 200


@pytest.mark.skipif(not torch.cuda.is_available(), reason="draws on a GPU")
def test_a_step_on_a_gpu_draws_what_a_step_on_a_cpu_draws() -> None:
    """Greedy, drawn, penalised and constrained rows in one plan."""
    tokenizer = toy_tokenizer()
    wanted: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0, "seed": 3},
        {"temperature": 1.0, "seed": 4, "top_p": 0.5, "repetition_penalty": 1.3},
        {"logit_bias": ((7, 50.0),)},
    ]
    sequences = [
        Sequence(generation_request(str(n), (1, 2, 3), **sampling), tokenizer)
        for n, sampling in enumerate(wanted)
    ]
    plan = Plan(tuple(Chunk(sequence, 0, 3) for sequence in sequences), ())
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(1)) * 4
    assert draw(logits.cuda(), plan) == draw(logits, plan)
