"""Penalties that are kept up to date give, bit for bit, what the definition makes of the text."""

import pytest
import torch

from lm.sampling import SamplingParams, adjusted_logits
from service.engine.scheduling.penalties import Penalties

PARAMS = {
    "none": SamplingParams(),
    "repetition": SamplingParams(repetition_penalty=1.3),
    "encouragement": SamplingParams(repetition_penalty=0.7),
    "frequency": SamplingParams(frequency_penalty=0.4),
    "presence": SamplingParams(presence_penalty=-0.9),
    "bias": SamplingParams(logit_bias=((3, 5.0), (90, -100.0))),
    "all": SamplingParams(
        repetition_penalty=1.1,
        frequency_penalty=0.3,
        presence_penalty=0.2,
        logit_bias=((3, 5.0),),
    ),
}


@pytest.mark.parametrize("name", PARAMS)
def test_a_growing_text_is_penalised_as_a_whole_one(name: str) -> None:
    params, prompt, output = PARAMS[name], (1, 2, 3, 3, 90), []
    generator = torch.Generator().manual_seed(0)
    penalties = Penalties(params, prompt, 100)
    for step in range(40):
        logits = torch.randn(100, generator=generator)
        guesses = (7, 7, 3)[: step % 4]
        banned = (0, 5) if step < 5 else ()
        expected = adjusted_logits(logits, params, prompt, (*output, *guesses), banned)
        assert torch.equal(penalties.adjusted(logits, output, guesses, banned), expected)
        output += torch.randint(100, (step % 3,), generator=generator).tolist()
