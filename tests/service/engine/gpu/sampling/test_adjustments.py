"""Bias, penalties and bans on the device against ``lm.sampling.adjusted_logits``."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lm.sampling import SamplingParams

pytest.importorskip("triton", reason="the kernels are Triton's")

from service.engine.gpu.sampling.adjustments import Adjust, Adjustments
from service.engine.gpu.sampling.rows import SamplingRows
from service.engine.gpu.sampling.sampler import DeviceSampler, SamplerTuning
from service.engine.gpu.sampling.variant import Variant
from tests.service.engine.gpu.sampling.reference import (
    Draw,
    assert_as_defined,
    device_tokens,
    fill,
)

CPU = torch.device("cpu")
SMALL = SamplerTuning(group=8, tokens_a_program=64, tile=64, few=32, capacity=80)
VOCAB_SIZE = 61
TOKENS = st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=12).map(tuple)

PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    top_k=st.sampled_from([0, 7]),
    repetition_penalty=st.one_of(st.just(1.0), st.floats(0.01, 100.0)),
    frequency_penalty=st.one_of(st.just(0.0), st.floats(-2.0, 2.0)),
    presence_penalty=st.one_of(st.just(0.0), st.floats(-2.0, 2.0)),
    logit_bias=st.dictionaries(
        st.integers(0, VOCAB_SIZE - 1), st.floats(-100.0, 100.0), max_size=4
    ).map(lambda biases: tuple(biases.items())),
    seed=st.integers(0, 99),
)
DRAWS = st.builds(
    Draw,
    logits=st.integers(0, 2**31).map(
        lambda seed: torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * 3
    ),
    params=PARAMS,
    index=st.integers(0, 100),
    prompt_ids=TOKENS,
    output_ids=TOKENS,
    banned_ids=st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=3, unique=True).map(tuple),
)


@settings(derandomize=True, deadline=None, max_examples=20, phases=[Phase.explicit, Phase.generate])
@given(draws=st.lists(DRAWS, min_size=1, max_size=4))
def test_adjusted_rows_draw_as_defined(draws: list[Draw]) -> None:
    assert_as_defined(draws, device_tokens(draws, tuning=SMALL))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drawn_tokens_count_in_the_steps_after_without_the_host(temperature: float) -> None:
    """Two slots over a dozen steps; end tokens are banned in the first five."""
    generator = torch.Generator().manual_seed(1)
    params = [
        SamplingParams(temperature=temperature, seed=3, frequency_penalty=1.5, top_k=20),
        SamplingParams(temperature=temperature, repetition_penalty=1.4, presence_penalty=0.5),
    ]
    banned = (0, 5)
    adjustments = Adjustments(2, VOCAB_SIZE, CPU)
    for slot in range(2):
        adjustments.begin(slot, params[slot], (4, 9, 9), (), banned)
    rows = SamplingRows.empty(2, CPU)
    tokens, last_tokens = torch.zeros((2, 2), dtype=torch.int32)
    sampler = DeviceSampler(2, VOCAB_SIZE, CPU, SMALL)
    outputs: list[list[int]] = [[], []]
    base = torch.randn(VOCAB_SIZE, generator=generator)
    base[list(banned)] = 4.0
    for index in range(12):
        logits = base + 0.1 * torch.randn(2, VOCAB_SIZE, generator=generator)
        draws = [
            Draw(
                logits=logits[slot],
                params=params[slot],
                index=index,
                prompt_ids=(4, 9, 9),
                output_ids=tuple(outputs[slot]),
                banned_ids=banned if index < 5 else (),
            )
            for slot in range(2)
        ]
        fill(rows, draws, [0, 1])
        sampler.compute(Variant.ADJUSTED_FILTERED, logits, rows, tokens, last_tokens, adjustments)
        assert_as_defined(draws, tokens.tolist())
        for output, token in zip(outputs, tokens.tolist(), strict=True):
            output.append(token)
    assert all(not {*banned} & {*output[:5]} for output in outputs)
    assert any({*banned} & {*output[5:]} for output in outputs)


def test_a_slot_begun_again_forgets_what_was_there() -> None:
    adjustments = Adjustments(3, VOCAB_SIZE, CPU)
    adjustments.begin(1, SamplingParams(logit_bias=((3, 9.0),)), (1, 1), (3, 3, 2), (4,))
    assert adjustments.words[1, :5].tolist() == [0, 1, 4, 8, 2]
    assert adjustments.bias[1, 3] == 9.0
    adjustments.begin(1, SamplingParams(presence_penalty=0.5), (2,))
    assert adjustments.words[1].nonzero().tolist() == [[2]]
    assert adjustments.penalties[1].tolist() == [1.0, 0.0, 0.5, 0.0]
    assert not adjustments.words[[0, 2]].any()


def test_a_row_without_bits_is_neither_adjusted_nor_counted() -> None:
    adjustments = Adjustments(1, VOCAB_SIZE, CPU)
    adjustments.begin(0, SamplingParams(logit_bias=((7, 100.0),)), ())
    draw = Draw(logits=torch.zeros(VOCAB_SIZE), params=SamplingParams(temperature=0.0))
    rows = SamplingRows.empty(1, CPU)
    fill(rows, [draw], [0])
    tokens, last_tokens = torch.zeros((2, 1), dtype=torch.int32)
    sampler = DeviceSampler(1, VOCAB_SIZE, CPU, SMALL)
    arguments = (draw.logits[None], rows, tokens, last_tokens, adjustments)
    sampler.compute(Variant.ADJUSTED_GREEDY, *arguments)
    assert tokens.tolist() == [0]
    assert not adjustments.words.any()
    rows.adjust.fill_(Adjust.SLOT)
    sampler.compute(Variant.ADJUSTED_GREEDY, *arguments)
    assert tokens.tolist() == [7]
    assert adjustments.words[0, 7] == 4


def test_the_memory_of_an_adjusted_slot_is_known_before_it_is_taken() -> None:
    adjustments = Adjustments(3, VOCAB_SIZE, CPU)
    taken = adjustments.words.nbytes + adjustments.bias.nbytes
    assert Adjustments.num_bytes(3, VOCAB_SIZE) == taken
