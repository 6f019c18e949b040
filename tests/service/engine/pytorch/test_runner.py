"""Logits of a prompt do not depend on how it was cut into chunks, for every kind of decoder."""

import pytest
import torch
from serving import generation_request
from torch import Tensor
from toys import toy_config, toy_decoder, toy_tokenizer

from lm.model.config import ModelConfig
from service.engine.pytorch.cache import SlotCache
from service.engine.pytorch.runner import Runner
from service.engine.scheduling.plan import Chunk, Plan
from service.engine.scheduling.sequence import Sequence

PROMPT = (5, 250, 17, 99, 3, 42, 42, 8, 120, 77, 31)

CONFIGS = {
    "rope": toy_config(),
    "learned positions": toy_config(positions="learned"),
    "layernorm, gelu, biases": toy_config(norm="layernorm", mlp="gelu", bias=True),
    "untied, ungrouped, scaled": toy_config(
        tie_word_embeddings=False, num_key_value_heads=4, residual_scale=0.7
    ),
}


def make_runner(config: ModelConfig) -> Runner:
    cache = SlotCache(
        config, num_slots=2, max_tokens=16, dtype=torch.float64, device=torch.device("cpu")
    )
    return Runner(toy_decoder(3, config).double(), cache)


def last_logits(runner: Runner, cuts: list[int], slot: int = 0) -> Tensor:
    """Compute the prompt chunk by chunk."""
    sequence = Sequence(generation_request("a", PROMPT), toy_tokenizer())
    sequence.slot = slot
    for start, end in zip([0, *cuts], [*cuts, len(PROMPT)], strict=True):
        logits = runner.run(Plan((Chunk(sequence, start, end),), ())).logits
        assert len(logits) == (end == len(PROMPT))
    return logits[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_chunks_give_the_logits_of_the_whole(name: str) -> None:
    config = CONFIGS[name]
    runner = make_runner(config)
    with torch.inference_mode():
        expected = toy_decoder(3, config).double()(torch.tensor([PROMPT]))[0, -1]
    for cuts in ([], [1], [10], [4, 8], [1, 2, 3, 9], list(range(1, len(PROMPT)))):
        logits = last_logits(runner, cuts)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10, msg=f"cut at {cuts}")


def test_the_slot_does_not_matter() -> None:
    runner = make_runner(toy_config())
    assert torch.equal(last_logits(runner, [4], slot=0), last_logits(runner, [4], slot=1))


def test_nothing_is_kept_for_a_backward_pass() -> None:
    logits = last_logits(make_runner(toy_config()), [4])
    assert not logits.requires_grad
    assert logits.is_inference()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_draft_gets_the_logits_of_tokens_that_were_chosen(name: str) -> None:
    runner = make_runner(CONFIGS[name])
    sequence = Sequence(generation_request("a", PROMPT[:4]), toy_tokenizer())
    sequence.slot = 0
    runner.run(Plan((Chunk(sequence, 0, 3),), ()))
    logits = runner.run(Plan((Chunk(sequence, 3, len(PROMPT), PROMPT[4:]),), ())).logits
    with torch.inference_mode():
        expected = toy_decoder(3, CONFIGS[name]).double()(torch.tensor([PROMPT]))[0, 3:]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
