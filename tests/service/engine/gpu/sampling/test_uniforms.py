"""Uniform numbers for many rows are those of the definition, bit for bit."""

import numpy as np
import pytest

from lm.sampling import MAX_SEED, counter_uniform
from service.engine.gpu.sampling.uniforms import counter_uniforms


def test_many_are_as_each_alone() -> None:
    generator = np.random.default_rng(3)
    seeds = np.concatenate([generator.integers(0, MAX_SEED, 500), [0, 1, MAX_SEED]])
    indices = np.concatenate([generator.integers(0, 100_000, 500), [0, 2**40, 7]])
    wanted = [counter_uniform(int(s), int(i)) for s, i in zip(seeds, indices, strict=True)]
    assert counter_uniforms(seeds.astype(np.uint64), indices).tolist() == wanted


def test_seeds_and_indices_go_in_pairs() -> None:
    with pytest.raises(ValueError, match="one seed an index"):
        counter_uniforms(np.zeros(2, np.uint64), np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="one seed an index"):
        counter_uniforms(np.zeros((2, 1), np.uint64), np.zeros((2, 1), np.int64))
