import dataclasses

import pytest

from playground.client import Problem
from playground.requests import NEWEST, Asking, chosen


def test_values_become_fields_of_their_types() -> None:
    asking = Asking("tiny@5", 0.5, 0.9, 40.0, 16.0, " 7 ", "a b\n\nc\n")
    assert asking.fields("max_tokens") == {
        "model": "tiny@5",
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "max_tokens": 16,
        "seed": 7,
        "stop": ["a b", "c"],
    }


def test_a_drawn_seed_repeats_digit_for_digit() -> None:
    drawn = 144900959138798507  # more than 2 ** 53, where a browser's numbers have gaps
    assert Asking(seed=str(drawn)).fields("max_tokens")["seed"] == drawn


@pytest.mark.parametrize("seed", ["lucky", "1.5", "-1", "²"])
def test_a_seed_that_is_no_whole_number_is_refused_by_its_text(seed: str) -> None:
    with pytest.raises(Problem, match=f"'{seed}' is none"):
        Asking(seed=seed).fields("max_tokens")


@pytest.mark.parametrize("model", ["", NEWEST])
def test_the_service_chooses_the_newest(model: str) -> None:
    assert chosen(model) == {}


def test_each_control_sets_a_field_and_each_field_has_one() -> None:
    pytest.importorskip("gradio")
    from playground.controls import Controls

    names = {field.name for field in dataclasses.fields(Asking)}
    assert {field.name for field in dataclasses.fields(Controls)} == names
