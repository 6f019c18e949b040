"""Rows of a step as the slots' sequences want to be drawn from."""

import numpy as np
import pytest
from serving import generation_request

from lm.sampling import counter_uniform
from service.engine.gpu.sampling.adjustments import Adjust
from service.engine.gpu.sampling.table import FIELDS, SamplingTable
from service.engine.gpu.sampling.variant import Variant

ROWS = 5


def begun(*asked: dict[str, object]) -> SamplingTable:
    """A table whose slots have these requests."""
    table = SamplingTable(len(asked))
    for slot, fields in enumerate(asked):
        request = generation_request(str(slot), **fields)  # type: ignore[arg-type]
        table.begin(slot, request.sampling, min_new_tokens=request.min_new_tokens)
    return table


def filled(
    table: SamplingTable, slots: list[int], indices: list[int]
) -> tuple[Variant, dict[str, np.ndarray]]:
    arrays = {name: np.full(ROWS, 77, dtype) for name, dtype in FIELDS.items()}
    return table.fill(arrays, np.array(slots), np.array(indices)), arrays


@pytest.mark.parametrize(
    ("asked", "variant"),
    [
        ([{}], "greedy"),
        ([{}, {"temperature": 0.7}], "temperature"),
        ([{"temperature": 0.7}, {"temperature": 0.7, "top_k": 3}], "filtered"),
        ([{"top_k": 3, "top_p": 0.5}], "greedy"),
        ([{}, {"repetition_penalty": 1.3}], "adjusted greedy"),
        ([{"temperature": 1.0, "min_p": 0.1}, {"logit_bias": ((5, 1.0),)}], "adjusted filtered"),
    ],
)
def test_a_step_takes_the_cheapest_variant_that_serves_all_rows(
    asked: list[dict[str, object]], variant: str
) -> None:
    found, _ = filled(begun(*asked), list(range(len(asked))), [0] * len(asked))
    assert found.value == variant


def test_rows_have_what_their_slots_ask_for_and_the_others_are_dead() -> None:
    table = begun({"temperature": 0.5, "seed": 3}, {"temperature": 2.0, "seed": 4, "top_k": 10**15})
    _, arrays = filled(table, [1, 0], [6, 7])
    assert arrays["slots"].tolist() == [1, 0, -1, -1, -1]
    assert arrays["temperatures"][:2].tolist() == [2.0, 0.5]
    assert arrays["top_k"][:2].tolist() == [2**31 - 1, 0]
    assert arrays["uniforms"][:2].tolist() == [counter_uniform(4, 6), counter_uniform(3, 7)]


def test_nothing_is_drawn_where_the_next_token_is_known() -> None:
    """Rows of a scored prompt: a draw there would race with the one behind the prompt."""
    table = begun({"repetition_penalty": 1.5}, {})
    found, arrays = filled(table, [0, 0, 0, 1], [-2, -1, 0, 5])
    assert arrays["slots"].tolist() == [-1, -1, 0, 1, -1]
    assert arrays["adjust"][:4].tolist() == [0, 0, Adjust.SLOT, 0]
    assert found.value == "adjusted greedy"
    found, arrays = filled(table, [0, 0], [-2, -1])
    assert (found.value, arrays["adjust"][:2].tolist()) == ("greedy", [0, 0])
