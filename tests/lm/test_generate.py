from collections.abc import Sequence
from typing import Any

import pytest
import torch
from toys import toy_config, toy_decoder

from lm.generate import generate
from lm.model.decoder import Decoder
from lm.sampling import SamplingParams, sample

GREEDY = SamplingParams(temperature=0.0)


def generated(prompt: Sequence[int], params: SamplingParams = GREEDY, **options: Any) -> list[int]:
    options = {"max_new_tokens": 12, **options}
    return list(generate(toy_decoder(), prompt, params, **options))


def test_greedy_is_the_argmax_of_the_last_logits_again_and_again() -> None:
    decoder, row = toy_decoder(), [5, 6, 7]
    for _ in range(12):
        with torch.inference_mode():
            row.append(int(decoder(torch.tensor([row]))[0, -1].argmax()))
    assert generated([5, 6, 7]) == row[3:]


def test_a_sampled_text_draws_token_by_token_at_its_index() -> None:
    params = SamplingParams(temperature=1.5, top_k=50, seed=3)
    decoder, row = toy_decoder(), [5, 6, 7]
    for index in range(12):
        with torch.inference_mode():
            row.append(sample(decoder(torch.tensor([row]))[0, -1], params, index))
    assert generated([5, 6, 7], params) == row[3:]


def test_a_seed_decides_the_text() -> None:
    texts = [generated([1], SamplingParams(seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_no_more_tokens_come_than_were_asked_for(limit: int) -> None:
    assert len(generated([1], max_new_tokens=limit)) == limit


def test_a_shorter_limit_gives_a_prefix() -> None:
    assert generated([1], max_new_tokens=3) == generated([1], max_new_tokens=9)[:3]


def test_an_end_token_ends_the_text_and_is_not_part_of_it() -> None:
    params = SamplingParams(seed=4)
    whole = generated([1], params)
    for ends in ([whole[6]], {whole[8], whole[6]}):
        before_end = whole[: min(whole.index(end) for end in ends)]
        assert len(before_end) < len(whole)
        assert generated([1], params, eos_token_ids=ends) == before_end


@pytest.mark.parametrize(("length", "room"), [(250, 6), (254, 2), (255, 1)])
def test_the_context_ends_the_text(length: int, room: int) -> None:
    assert len(generated([1] * length, max_new_tokens=50)) == room


@pytest.mark.parametrize("length", [0, 256, 300])
def test_a_prompt_that_is_empty_or_fills_the_context_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"prompt of {length} tokens; the model takes 1 to 255"):
        generated([1] * length)


def test_the_prompt_is_left_as_it_was() -> None:
    prompt = [1, 2, 3]
    generated(prompt)
    assert prompt == [1, 2, 3]


def test_tokens_come_one_by_one() -> None:
    counted = 0

    class Counting(Decoder):
        def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
            nonlocal counted
            counted += 1
            return super().forward(token_ids)

    stream = generate(Counting(toy_config()), [1], GREEDY, max_new_tokens=9)
    next(stream)
    next(stream)
    assert counted == 2


def test_inference_mode_ends_with_every_token() -> None:
    stream = generate(toy_decoder(), [1], GREEDY, max_new_tokens=2)
    next(stream)
    assert not torch.is_inference_mode_enabled()


def test_dropout_does_not_act_even_on_a_model_in_training() -> None:
    decoder = toy_decoder(config=toy_config(dropout=0.5)).train()
    assert list(generate(decoder, [1], GREEDY, max_new_tokens=12)) == generated([1])
