"""With guesses or without: the same tokens, so the same distribution too."""

import collections
import functools
import itertools
import random
from collections.abc import Iterator

import pytest
import torch
from serving import generation_request, toy_engine
from toys import toy_config, toy_decoder

from lm.sampling import SamplingParams, kept_logits
from service.engine.engine import Engine
from service.engine.request import Event, Finished, FinishReason, GenerationRequest, TokenGenerated
from service.engine.scheduling.sequence import Sequence
from service.engine.speculation.drafter import Drafter

CONTEXT = 48
LOOP = (5, 6, 7, 8) * 4


def make_engine(**options: bool) -> Engine:
    decoder = toy_decoder(4, toy_config(hidden_size=32, max_position_embeddings=CONTEXT)).double()
    return toy_engine(decoder, num_slots=3, **options)


def answers(engine: Engine, requests: list[GenerationRequest]) -> dict[str, list[Event]]:
    """Every event of every request but the one that it has begun."""
    events: dict[str, list[Event]] = collections.defaultdict(list)
    for request in requests:
        engine.submit(request)
    while not engine.is_idle:
        for event in engine.step():
            if isinstance(event, TokenGenerated | Finished):
                events[event.request_id].append(event)
        engine.check_integrity()
    return events


def guess_from(expected: dict[str, list[Event]], error_rate: float, max_guesses: int = 6) -> object:
    """A ``Drafter.draft`` that knows the answer and is wrong now and then, also about its end."""
    rng = random.Random(0)

    def draft(_: Drafter, sequence: Sequence, limit: int) -> tuple[int, ...]:
        known = [e.token_id for e in expected[sequence.request_id] if isinstance(e, TokenGenerated)]
        ahead = [*known, 0, 9, 9][len(sequence.output_ids) :][: min(limit, max_guesses)]
        return tuple(token if rng.random() >= error_rate else rng.randrange(300) for token in ahead)

    return draft


def requests() -> Iterator[GenerationRequest]:
    """Greedy, sampled, stopped, ending by themselves and at the end of the context."""
    samplings = [{}, {"temperature": 0.9, "seed": 3}, {"temperature": 2.0, "top_k": 5, "seed": 8}]
    stops = [(), ("e",), ("th", "ou", " ")]
    for number, (sampling, stop, length) in enumerate(
        itertools.product(samplings, stops, (1, 7, 16))
    ):
        yield generation_request(
            str(number), LOOP[:length], max_new_tokens=3 * length + 9, stop=stop, **sampling
        )


@pytest.mark.parametrize("error_rate", [0.0, 0.2, 0.5, 1.0])
def test_whatever_is_guessed_the_answers_are_the_same(
    error_rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answers(make_engine(speculation=False), list(requests()))
    reasons = {e.reason for es in expected.values() for e in es if isinstance(e, Finished)}
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH}
    monkeypatch.setattr(Drafter, "draft", guess_from(expected, error_rate))
    engine = make_engine()
    assert answers(engine, list(requests())) == expected


def test_right_guesses_save_steps_and_are_counted() -> None:
    num_steps, tokens = {}, {}
    for speculation in (False, True):
        engine = make_engine(speculation=speculation)
        engine.submit(generation_request("a", LOOP, max_new_tokens=CONTEXT))
        drafted = accepted = steps = 0
        tokens[speculation] = []
        while not engine.is_idle:
            tokens[speculation] += [e for e in engine.step() if isinstance(e, TokenGenerated)]
            steps += engine.stats().batch_size > 0
            drafted += engine.stats().num_draft_tokens
            accepted += engine.stats().num_accepted_tokens
        num_steps[speculation] = steps
        assert (drafted >= accepted > 0) == speculation
        assert steps + accepted == len(tokens[speculation])
    assert tokens[True] == tokens[False]
    assert num_steps[True] < num_steps[False]


def test_draws_with_guesses_follow_the_models_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pearson's chi-square over three tokens, the likeliest of the last two always guessed."""
    prompt_ids, num_requests = (5, 6), 600
    params = SamplingParams(temperature=1.0, top_k=3)
    decoder = toy_decoder(4, toy_config(hidden_size=32, max_position_embeddings=CONTEXT)).double()

    @functools.cache
    def chances(*answer: int) -> dict[int, float]:
        with torch.inference_mode():
            logits = decoder(torch.tensor([[*prompt_ids, *answer]]))[0, -1]
        kept = kept_logits(logits, params).softmax(-1)
        return {int(token): float(kept[token]) for token in kept.nonzero()}

    def draft(_: Drafter, sequence: Sequence, limit: int) -> tuple[int, ...]:
        answer = list(sequence.output_ids)
        for _ in range(min(limit, 3 - len(answer))):
            table = chances(*answer)
            answer.append(max(table, key=lambda token: table[token]))
        return tuple(answer[len(sequence.output_ids) :])

    monkeypatch.setattr(Drafter, "draft", draft)
    jobs = [
        generation_request(
            str(seed), prompt_ids, max_new_tokens=3, temperature=1.0, top_k=3, seed=seed
        )
        for seed in range(num_requests)
    ]
    seen = collections.Counter(
        tuple(e.token_id for e in events if isinstance(e, TokenGenerated))
        for events in answers(make_engine(), jobs).values()
    )
    expected = {
        (a, b, c): num_requests * p * q * r
        for a, p in chances().items()
        for b, q in chances(a).items()
        for c, r in chances(a, b).items()
    }
    assert len(expected) == 27
    assert set(seen) <= set(expected)
    statistic = sum((seen[key] - count) ** 2 / count for key, count in expected.items())
    assert statistic < 54.1, "the 0.999 quantile at 26 degrees of freedom"


def test_a_guess_whose_numbers_overflow_costs_its_stream_the_guessing_alone() -> None:
    poison = 290
    decoder = toy_decoder(2, toy_config(tie_word_embeddings=False)).double()
    request = generation_request("a", LOOP, max_new_tokens=12)
    expected = answers(toy_engine(decoder, num_slots=1), [request])["a"]
    assert all(getattr(event, "token_id", 0) != poison for event in expected)
    with torch.no_grad():
        decoder.model.embed_tokens.weight[poison] = torch.nan
    engine = toy_engine(decoder, num_slots=1)
    with pytest.MonkeyPatch.context() as patch:
        unlucky = Drafter.draft

        def draft(drafter: Drafter, sequence: Sequence, limit: int) -> tuple[int, ...]:
            is_due = len(sequence.output_ids) == 3 and not drafter.has_given_up
            return (poison,) if is_due else unlucky(drafter, sequence, limit)

        patch.setattr(Drafter, "draft", draft)
        assert answers(engine, [request])["a"] == expected
    later = generation_request("b", (9, *LOOP), max_new_tokens=12)
    again = answers(engine, [later])["b"][-1]
    assert isinstance(again, Finished)
    assert again.reason is not FinishReason.ERROR
