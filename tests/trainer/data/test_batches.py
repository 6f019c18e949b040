from collections import Counter

import numpy as np
import pytest
import torch

from trainer.data.batches import Batches, Stage
from trainer.data.token_files import TokenSource
from trainer.recipe.recipes import load_recipe, override

LENGTH = 8


def source(name: str, first_token: int, size: int = 500) -> TokenSource:
    train = np.arange(first_token, first_token + size, dtype=np.uint16)
    return TokenSource(name, train, train[:10], size, 10)


SOURCES = [source("a", 0), source("b", 10_000), source("c", 20_000)]
STAGES = [Stage(0, {"a": 1.0}), Stage(6, {"a": 0.5, "b": 0.3, "c": 0.2}), Stage(30, {"c": 1.0})]


def names(batches: Batches, numbers: range) -> list[str]:
    """Source of every sequence, told by its tokens."""
    rows = torch.cat([batches.micro_batch(number)[0][:, 0] for number in numbers])
    return ["abc"[int(token) // 10_000] for token in rows]


def test_targets_are_the_inputs_one_token_later() -> None:
    inputs, targets = Batches(SOURCES, STAGES, LENGTH, 4, seed=1).micro_batch(9)
    assert inputs.shape == targets.shape == (4, LENGTH)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(inputs + 1, targets)


def test_a_batch_depends_on_seed_and_number_alone() -> None:
    forward = [Batches(SOURCES, STAGES, LENGTH, 4, seed=1).micro_batch(n)[0] for n in range(40)]
    batches = Batches(SOURCES, STAGES, LENGTH, 4, seed=1)
    for number in reversed(range(40)):
        assert torch.equal(batches.micro_batch(number)[0], forward[number])
    other = Batches(SOURCES, STAGES, LENGTH, 4, seed=2)
    assert not torch.equal(other.micro_batch(0)[0], forward[0])


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_micro_batches_joined_are_the_larger_batch(parts: int) -> None:
    """Accumulation sees the same sequences in the same order as one large batch."""
    whole = Batches(SOURCES, [], LENGTH, 12, seed=1)
    small = Batches(SOURCES, [], LENGTH, 12 // parts, seed=1)
    for number in range(10):
        pieces = [small.micro_batch(number * parts + part)[0] for part in range(parts)]
        assert torch.equal(torch.cat(pieces), whole.micro_batch(number)[0])


def test_stages_begin_at_exactly_their_first_micro_batch() -> None:
    batches = Batches(SOURCES, STAGES, LENGTH, 4, seed=1)
    assert set(names(batches, range(6))) == {"a"}
    assert Counter(names(batches, range(6, 16))) == Counter(a=20, b=12, c=8)
    assert set(names(batches, range(30, 40))) == {"c"}


def test_each_source_goes_through_its_windows_across_stages() -> None:
    batches = Batches(SOURCES, STAGES, LENGTH, 4, seed=1)
    positions = [batches.locate(sequence) for sequence in range(200)]
    for name in "abc":
        taken = [n for source_name, n in positions if source_name == name]
        assert taken == list(range(len(taken)))


def test_without_stages_all_sources_are_alike() -> None:
    batches = Batches(SOURCES, [], LENGTH, 3, seed=1)
    assert Counter(names(batches, range(50))) == Counter(a=50, b=50, c=50)


def test_a_late_batch_is_found_as_fast_as_an_early_one() -> None:
    inputs, _ = Batches(SOURCES, STAGES, LENGTH, 4, seed=1).micro_batch(10**12)
    assert inputs.shape == (4, LENGTH)


@pytest.mark.parametrize(("unit", "first_micro_batch"), [("optimizer", 12), ("micro", 3)])
def test_a_recipe_s_stages_are_counted_in_its_unit(unit: str, first_micro_batch: int) -> None:
    recipe = override(
        load_recipe("tiny"),
        [
            "sources=[{name: a, corpus: code}, {name: b, corpus: math}]",
            "stages=[{name: one, first_step: 0, weights: {a: 1}},"
            " {name: two, first_step: 3, weights: {b: 1}}]",
            f"batch={{micro_batch: 2, length: {LENGTH}, grad_accum_steps: 4}}",
            f"unit={unit}",
        ],
    )
    batches = Batches.from_recipe(recipe, SOURCES)
    assert set(names(batches, range(first_micro_batch))) == {"a"}
    assert set(names(batches, range(first_micro_batch, 20))) == {"b"}


def test_a_source_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="'a': 5 tokens do not fill one sequence of 8"):
        Batches([source("a", 0, size=5)], [], LENGTH, 2, seed=1)
