"""Rows of a step gathered from what the sequences in the slots ask for."""

from typing import Any

import numpy as np
import pytest
import torch

from lm.sampling import SamplingParams, counter_uniform
from service.engine.gpu.sampling.adjustments import Adjust
from service.engine.gpu.sampling.rows import SamplingRows
from service.engine.gpu.sampling.table import SlotTable
from service.engine.gpu.sampling.variant import Variant


def filled(table: SlotTable, slots: list[int], size: int) -> tuple[SamplingRows, Variant]:
    rows = SamplingRows.empty(size, torch.device("cpu"))
    rows.slots.fill_(99)
    places = np.array(slots, dtype=np.int32)
    variant = table.fill(rows, places, np.arange(len(slots)), places == 2)
    return rows, variant


def test_a_row_has_what_its_slot_asks_for() -> None:
    table = SlotTable(4)
    table.begin(
        1, SamplingParams(temperature=0.5, top_k=10**15, top_p=0.6, min_p=1.0, seed=2**63 - 1)
    )
    table.begin(2, SamplingParams(temperature=0.0, seed=4), adjusts=True)
    rows, variant = filled(table, [2, -1, 1], 5)
    assert variant is Variant.ADJUSTED_FILTERED
    assert rows.slots.tolist() == [2, -1, 1, -1, -1]
    assert rows.temperatures.tolist()[::2][:2] == [0.0, 0.5]
    assert rows.top_k.tolist()[2] == 2**31 - 1
    assert rows.top_p.tolist()[2] == 0.6
    assert rows.log_min_p.tolist()[:3:2] == [-np.inf, 0.0]
    assert rows.uniforms.tolist()[:3:2] == [counter_uniform(4, 0), counter_uniform(2**63 - 1, 2)]
    assert rows.adjust.tolist()[:3:2] == [Adjust.SLOT | Adjust.BANS, Adjust.NONE]


@pytest.mark.parametrize(
    ("params", "adjusts", "wanted"),
    [
        ({"temperature": 0.0, "top_k": 5}, False, Variant.GREEDY),
        ({"temperature": 1e-6, "min_p": 0.5}, False, Variant.GREEDY),
        ({}, False, Variant.TEMPERATURE),
        ({"top_k": 5}, False, Variant.FILTERED),
        ({"top_p": 0.5}, False, Variant.FILTERED),
        ({"min_p": 0.5}, False, Variant.FILTERED),
        ({"temperature": 0.0}, True, Variant.ADJUSTED_GREEDY),
        ({}, True, Variant.ADJUSTED_TEMPERATURE),
        ({"top_p": 0.5}, True, Variant.ADJUSTED_FILTERED),
    ],
)
def test_the_least_variant_does_what_the_live_rows_ask_for(
    params: dict[str, Any], adjusts: bool, wanted: Variant
) -> None:
    table = SlotTable(2)
    table.begin(0, SamplingParams(**params), adjusts=adjusts)
    table.begin(1, SamplingParams(top_k=3), adjusts=True)
    assert filled(table, [0, -1], 2)[1] is wanted
    table.begin(1, SamplingParams(temperature=0.0))
    assert filled(table, [1], 2)[1] is Variant.GREEDY


@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.parametrize("filters", [False, True])
@pytest.mark.parametrize("adjusts", [False, True])
def test_a_variant_says_what_it_does(draws: bool, filters: bool, adjusts: bool) -> None:
    variant = Variant.of(draws=draws, filters=filters, adjusts=adjusts)
    assert (variant.draws, variant.adjusts) == (draws, adjusts)
    assert variant.filters == (draws and filters)
