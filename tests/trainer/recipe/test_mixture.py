import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.recipe.mixture import Mixture, exact_shares


@st.composite
def mixtures(draw: st.DrawFn) -> dict[str, float]:
    parts = draw(st.lists(st.integers(0, 40), min_size=1, max_size=7).filter(any))
    return {f"s{index}": part / sum(parts) for index, part in enumerate(parts)}


@given(weights=mixtures(), start=st.integers(0, 10**6), length=st.integers(1, 700))
def test_any_stretch_is_within_2_of_its_shares(
    weights: dict[str, float], start: int, length: int
) -> None:
    mixture = Mixture(weights)
    drawn = [mixture.source(sequence) for sequence in range(start, start + length)]
    for name, weight in weights.items():
        assert abs(drawn.count(name) - weight * length) < 2


@given(weights=mixtures(), start=st.integers(0, 10**6))
def test_counts_are_the_sequences_before(weights: dict[str, float], start: int) -> None:
    mixture = Mixture(weights)
    for name in weights:
        before = mixture.count(name, start)
        for sequence in range(start, start + 50):
            assert mixture.count(name, sequence) == before
            before += mixture.source(sequence) == name


def test_all_stretches_of_a_published_mixture_hold() -> None:
    weights = {"web": 0.85, "code": 0.12, "math": 0.03}
    mixture = Mixture(weights)
    assert mixture.period == 100
    for start, length in itertools.product(range(100), range(1, 201)):
        for name, weight in weights.items():
            drawn = mixture.count(name, start + length) - mixture.count(name, start)
            assert abs(drawn - weight * length) < 2


def test_a_source_of_weight_0_never_comes() -> None:
    mixture = Mixture({"a": 1.0, "b": 0.0})
    assert {mixture.source(sequence) for sequence in range(10)} == {"a"}
    assert mixture.count("b", 10) == 0


def test_thirds_are_exact() -> None:
    assert Mixture({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}).period == 3
    assert Mixture({"a": 0.3333, "b": 0.3333, "c": 0.3334}).period == 10_000


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 0.5, "b": 0.4}, "must sum to 1, they sum to 0.9"),
        ({"a": 1.5, "b": -0.5}, "weight of 'b' is negative"),
        ({"a": 0.123456, "b": 0.234567, "c": 0.641977}, "at most four decimals"),
        ({}, "must sum to 1, they sum to 0"),
    ],
)
def test_what_is_no_mixture_is_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exact_shares(weights)
