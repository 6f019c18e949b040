import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from toys.properties import examples
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lm import sampling
from lm.sampling import (
    GREEDY_TEMPERATURE,
    MAX_SEED,
    MAX_TEMPERATURE,
    SamplingParams,
    adjusted_logits,
    counter_uniform,
    kept_logits,
    sample,
)

sampled_params = st.builds(
    SamplingParams,
    temperature=st.floats(0.05, 5.0),
    top_k=st.integers(0, 60),
    top_p=st.floats(0.01, 1.0),
    seed=st.integers(0, MAX_SEED),
)


def some_logits(size: int, seed: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def cumulative_before(logits: Tensor, params: SamplingParams) -> Tensor:
    """Probability of all likelier tokens, among those of top-k, in descending order."""
    kept = logits.double().sort(descending=True).values[: params.top_k or None]
    probabilities = (kept / params.temperature).softmax(-1)
    return probabilities.cumsum(-1) - probabilities


def is_near_an_edge(logits: Tensor, params: SamplingParams) -> bool:
    """Whether float32 rounding alone may decide which token top-p drops first."""
    return bool(((cumulative_before(logits, params) - params.top_p).abs() < 1e-5).any())


def reference_sample(logits: list[float], params: SamplingParams, uniform: float) -> int:
    """The same draw in plain Python: sort, cut, invert the cumulative distribution."""
    largest = max(logits)
    mass = [math.exp((value - largest) / params.temperature) for value in logits]
    order = sorted(range(len(mass)), key=lambda token: -mass[token])[: params.top_k or None]
    kept, total, reached = set(), sum(mass[token] for token in order), 0.0
    for token in order:
        if reached / total < params.top_p:
            kept.add(token)
        reached += mass[token]
    threshold, reached = uniform * sum(mass[token] for token in kept), 0.0
    for token in sorted(kept):
        reached += mass[token]
        if reached > threshold:
            return token
    raise AssertionError("the distribution ends below its own sum")


def gap_to_next_token(logits: Tensor, params: SamplingParams, uniform: float) -> float:
    """How far the uniform number is from where the chosen token would change."""
    cumulative = kept_logits(logits, params).double().softmax(-1).cumsum(-1)
    return float((cumulative - uniform).abs().min())


@examples(200)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 80), params=sampled_params)
def test_kept_tokens_are_those_of_transformers_processors(
    seed: int, size: int, params: SamplingParams
) -> None:
    logits = some_logits(size, seed)
    assume(not is_near_an_edge(logits, params))
    processors = LogitsProcessorList([TemperatureLogitsWarper(params.temperature)])
    if params.top_k:
        processors.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1.0:
        processors.append(TopPLogitsWarper(params.top_p))
    theirs = processors(torch.zeros(1, 1, dtype=torch.int64), logits[None])[0]
    torch.testing.assert_close(kept_logits(logits, params), theirs, rtol=1e-6, atol=0)


@examples(200)
@given(
    seed=st.integers(0, 10_000),
    min_p=st.floats(0.0, 1.0),
    temperature=st.floats(0.1, 3.0),
    top_k=st.integers(0, 20),
)
def test_min_p_keeps_what_transformers_keeps(
    seed: int, min_p: float, temperature: float, top_k: int
) -> None:
    logits = some_logits(30, seed)
    shares = (logits / temperature).softmax(-1)
    assume(not ((shares / shares.max() - min_p).abs() < 1e-5 * min_p).any() or min_p in (0.0, 1.0))
    processors = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if min_p:
        processors.append(MinPLogitsWarper(min_p))
    theirs = processors(torch.zeros(1, 1, dtype=torch.int64), logits[None])[0]
    params = SamplingParams(temperature=temperature, top_k=top_k, min_p=min_p)
    torch.testing.assert_close(kept_logits(logits, params), theirs, rtol=1e-6, atol=0)


token_ids = st.lists(st.integers(0, 29), max_size=20)


@examples(200)
@given(
    seed=st.integers(0, 10_000),
    prompt_ids=st.lists(st.integers(0, 29), min_size=1, max_size=20),
    output_ids=token_ids,
    penalty=st.floats(0.01, 100.0),
    bias=st.dictionaries(st.integers(0, 29), st.floats(-100.0, 100.0, width=32), max_size=5),
    min_new_tokens=st.integers(0, 20),
)
def test_bias_repetition_and_bans_are_those_of_transformers_processors(
    seed: int,
    prompt_ids: list[int],
    output_ids: list[int],
    penalty: float,
    bias: dict[int, float],
    min_new_tokens: int,
) -> None:
    logits, eos = some_logits(30, seed), [3, 7]
    processors = LogitsProcessorList()
    if bias:
        bias_of = {(token_id,): value for token_id, value in bias.items()}
        processors.append(SequenceBiasLogitsProcessor(bias_of))
    processors.append(RepetitionPenaltyLogitsProcessor(penalty))
    processors.append(MinNewTokensLengthLogitsProcessor(len(prompt_ids), min_new_tokens, eos))
    theirs = processors(torch.tensor([prompt_ids + output_ids]), logits[None].clone())[0]
    params = SamplingParams(repetition_penalty=penalty, logit_bias=tuple(bias.items()))
    banned = eos if len(output_ids) < min_new_tokens else []
    ours = adjusted_logits(logits, params, prompt_ids, output_ids, banned)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert params.adjusts_logits == (penalty != 1.0 or bool(bias))


@examples(100)
@given(
    seed=st.integers(0, 10_000),
    output_ids=token_ids,
    frequency=st.floats(-2.0, 2.0),
    presence=st.floats(-2.0, 2.0),
)
def test_frequency_and_presence_penalties_are_openais_formula(
    seed: int, output_ids: list[int], frequency: float, presence: float
) -> None:
    """OpenAI's guide: logit -= count * frequency_penalty + (count > 0) * presence_penalty."""
    logits = some_logits(30, seed)
    expected = [
        logit - output_ids.count(token) * frequency - (token in output_ids) * presence
        for token, logit in enumerate(logits.tolist())
    ]
    params = SamplingParams(frequency_penalty=frequency, presence_penalty=presence)
    prompt_ids = [0, 1, 2]  # does not count
    ours = adjusted_logits(logits, params, prompt_ids, output_ids)
    torch.testing.assert_close(ours, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_adjusting_leaves_the_logits_and_answers_in_float32() -> None:
    logits = some_logits(20, seed=1).double()
    before = logits.clone()
    params = SamplingParams(repetition_penalty=2.0, logit_bias=((3, 5.0),), presence_penalty=1.0)
    ours = adjusted_logits(logits, params, [1, 2], [4, 4], [9])
    assert torch.equal(logits, before)
    assert ours.dtype == torch.float32
    assert ours[3] == pytest.approx(float(before[3]) + 5.0)
    assert ours[9] == -torch.inf


@examples(200)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 80),
    params=sampled_params,
    index=st.integers(0, 1_000_000),
)
def test_a_draw_is_the_one_spelled_out_in_plain_python(
    seed: int, size: int, params: SamplingParams, index: int
) -> None:
    logits = some_logits(size, seed)
    uniform = counter_uniform(params.seed, index)
    assume(not is_near_an_edge(logits, params))
    assume(gap_to_next_token(logits, params, uniform) > 1e-5)
    assert sample(logits, params, index) == reference_sample(logits.tolist(), params, uniform)


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({}, {0, 1, 2, 3}),
        ({"top_k": 1}, {3}),
        ({"top_k": 2}, {2, 3}),
        ({"top_k": 4}, {0, 1, 2, 3}),
        ({"top_k": 99}, {0, 1, 2, 3}),
        ({"top_p": 1e-9}, {3}),
        ({"top_p": 0.39}, {3}),
        ({"top_p": 0.41}, {2, 3}),
        ({"top_p": 0.71}, {1, 2, 3}),
        ({"top_p": 0.91}, {0, 1, 2, 3}),
        ({"top_k": 2, "top_p": 0.56}, {3}),  # of what top-k left, token 3 has 4/7
        ({"top_k": 2, "top_p": 0.58}, {2, 3}),
    ],
    ids=str,
)
def test_top_k_and_top_p_keep_what_their_names_say(params: dict[str, Any], kept: set[int]) -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    finite = kept_logits(logits, SamplingParams(**params)).isfinite()
    assert set(finite.nonzero().flatten().tolist()) == kept


def test_ties_at_the_edge_of_top_k_all_stay() -> None:
    logits = torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0])
    kept = kept_logits(logits, SamplingParams(top_k=2)).isfinite()
    assert kept.tolist() == [False, True, True, True, False]


def test_the_logits_handed_in_are_left_as_they_were() -> None:
    logits = some_logits(20, seed=1)
    before = logits.clone()
    sample(logits, SamplingParams(temperature=0.5, top_k=3, top_p=0.5), 0)
    assert torch.equal(logits, before)


def test_draws_follow_the_tempered_distribution() -> None:
    logits, params = some_logits(6, seed=2, scale=1.0), SamplingParams(temperature=0.7, seed=11)
    draws = 4000
    seen = Counter(sample(logits, params, index) for index in range(draws))
    for token, probability in enumerate((logits / 0.7).softmax(-1).tolist()):
        deviation = math.sqrt(draws * probability * (1 - probability))
        assert abs(seen[token] - draws * probability) < 4 * deviation


@pytest.mark.parametrize("temperature", [0.0, 1e-310, 1e-45, 1e-20, GREEDY_TEMPERATURE / 2])
def test_no_temperature_takes_the_likeliest_token(temperature: float) -> None:
    params = SamplingParams(temperature=temperature, top_k=3, top_p=0.9, seed=5)
    assert params.is_greedy
    for seed in range(20):
        logits = some_logits(50, seed, scale=30.0)
        assert sample(logits, params, seed) == int(logits.argmax())


@pytest.mark.parametrize("scale", [3.0, 1e4, 1e30])
@pytest.mark.parametrize("temperature", [GREEDY_TEMPERATURE, 1e-3, 1.0, MAX_TEMPERATURE])
def test_any_sampled_temperature_gives_a_token_of_the_vocabulary(
    temperature: float, scale: float
) -> None:
    params = SamplingParams(temperature=temperature, top_p=0.9)
    for index in range(20):
        assert 0 <= sample(some_logits(50, index, scale), params, index) < 50


def test_the_coldest_sampling_agrees_with_greedy() -> None:
    params = SamplingParams(temperature=GREEDY_TEMPERATURE)
    assert not params.is_greedy
    for seed in range(20):
        logits = some_logits(50, seed)
        assert sample(logits, params, seed) == int(logits.argmax())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_logits_of_any_dtype_are_drawn_from_in_float32(dtype: torch.dtype) -> None:
    logits, params = some_logits(50, seed=3).to(dtype), SamplingParams(top_p=0.8, seed=1)
    for index in range(50):
        assert sample(logits, params, index) == sample(logits.float(), params, index)


def test_a_dropped_token_is_never_drawn() -> None:
    logits = some_logits(30, seed=4)
    params = SamplingParams(temperature=3.0, top_k=4, top_p=0.8)
    kept = set(kept_logits(logits, params).isfinite().nonzero().flatten().tolist())
    drawn = {sample(logits, params, index) for index in range(500)}
    assert drawn == kept
    assert 1 < len(kept) <= 4


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (0.5, 3), (1.0 - 2.0**-53, 3)])
def test_a_uniform_number_on_an_edge_belongs_to_the_token_above_it(
    monkeypatch: pytest.MonkeyPatch, uniform: float, token: int
) -> None:
    monkeypatch.setattr(sampling, "counter_uniform", lambda seed, index: uniform)
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf])
    assert sample(logits, SamplingParams(), 0) == token


def test_counter_uniform_gives_the_same_numbers_for_ever() -> None:
    golden = {
        (0, 0): 0.6524484863740322,
        (0, 1): 0.7012121095215252,
        (1, 0): 0.36818951565166946,
        (42, 7): 0.7347204584623639,
        (MAX_SEED, 123456): 0.4285924987680031,
    }
    assert {place: counter_uniform(*place) for place in golden} == golden


@examples(300)
@given(seed=st.integers(0, MAX_SEED), index=st.integers(0, 2**40))
def test_counter_uniform_stays_below_one(seed: int, index: int) -> None:
    assert 0.0 <= counter_uniform(seed, index) < 1.0


@pytest.mark.parametrize("along", ["index", "seed"])
def test_counter_uniform_is_uniform_along_indices_and_along_seeds(along: str) -> None:
    count = 20_000
    numbers = [
        counter_uniform(7, n) if along == "index" else counter_uniform(n, 7) for n in range(count)
    ]
    bins = Counter(int(20 * number) for number in numbers)
    chi_square = sum((bins[n] - count / 20) ** 2 / (count / 20) for n in range(20))
    assert chi_square < 43.8  # of 19 degrees of freedom, once in a thousand
    pairs = list(itertools.pairwise(numbers))
    covariance = sum((x - 0.5) * (y - 0.5) for x, y in pairs) / len(pairs)
    assert abs(covariance * 12) < 4 / math.sqrt(count)
    assert len(set(numbers)) == count


def test_neighbouring_seeds_share_no_numbers() -> None:
    streams = [{counter_uniform(seed, index) for index in range(300)} for seed in range(30)]
    assert len(set().union(*streams)) == 30 * 300


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", MAX_TEMPERATURE + 1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.nan),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("logit_bias", ((3, 101.0),)),
        ("logit_bias", ((3, math.nan),)),
        ("seed", -1),
        ("seed", MAX_SEED + 1),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} must"):
        SamplingParams(**{field: value})


def test_the_ends_of_every_range_are_accepted() -> None:
    SamplingParams(temperature=0.0, top_k=0, top_p=5e-324, seed=0)
    hottest = SamplingParams(temperature=MAX_TEMPERATURE, top_p=1.0, seed=MAX_SEED)
    assert not hottest.is_greedy
