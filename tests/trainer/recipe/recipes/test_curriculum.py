"""The real curriculum, sequence by sequence: its mixtures hold everywhere, its edges are exact."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.batches import Batches
from trainer.data.token_files import TokenSource
from trainer.recipe.recipes import load_recipe
from trainer.recipe.step_plan import Plan

RECIPE = load_recipe("smollm2-135m-curriculum")
PER_STEP = RECIPE.batch.micro_batch * RECIPE.batch.grad_accum_steps
NUM_STEPS = Plan(RECIPE).num_steps
FIRST_STEPS = [stage.first_step for stage in RECIPE.stages]


def _source(name: str) -> TokenSource:
    tokens = np.zeros(5_000, dtype=np.uint16)
    return TokenSource(name, tokens, tokens[:10], 5_000, 10)


BATCHES = Batches.from_recipe(RECIPE, [_source(source.name) for source in RECIPE.sources])


def sources_of(sequences: range) -> Counter[str]:
    return Counter(BATCHES.locate(sequence)[0] for sequence in sequences)


@settings(deadline=None)
@given(data=st.data(), stage=st.integers(0, len(FIRST_STEPS) - 1))
def test_any_stretch_within_a_stage_is_within_2_of_its_weights(
    data: st.DataObject, stage: int
) -> None:
    first, *_, end = [step * PER_STEP for step in (*FIRST_STEPS, NUM_STEPS)[stage : stage + 2]]
    start = data.draw(st.integers(first, end - 1))
    length = data.draw(st.integers(1, min(2_000, end - start)))
    counts = sources_of(range(start, start + length))
    weights = RECIPE.stages[stage].weights
    assert set(counts) <= set(weights)
    for name, weight in weights.items():
        assert abs(counts[name] - weight * length) < 2


@pytest.mark.parametrize("stage", range(1, len(FIRST_STEPS)))
def test_a_stage_begins_with_the_first_sequence_of_its_first_step(stage: int) -> None:
    """What the step before and the step itself see are their own stages' sources alone."""
    edge = FIRST_STEPS[stage] * PER_STEP
    for before, after in ((1_000, 0), (0, 1_000)):
        names = set(sources_of(range(edge - before, edge + after)))
        assert names == set(RECIPE.stages[stage - bool(before)].weights)


def test_whole_stages_give_each_source_exactly_its_share() -> None:
    ends = [*FIRST_STEPS[1:], NUM_STEPS]
    for stage, end in zip(RECIPE.stages, ends, strict=True):
        num_sequences = (end - stage.first_step) * PER_STEP
        counts = sources_of(range(stage.first_step * PER_STEP, end * PER_STEP))
        for name, weight in stage.weights.items():
            assert counts[name] == pytest.approx(weight * num_sequences, abs=1)


def test_a_source_goes_on_where_the_stage_before_left_it() -> None:
    for step in FIRST_STEPS[1:]:
        edge = step * PER_STEP
        located = [BATCHES.locate(sequence) for sequence in range(edge - 500, edge + 500)]
        for name in {name for name, _ in located}:
            taken = [n for source, n in located if source == name]
            assert taken == list(range(taken[0], taken[0] + len(taken)))
