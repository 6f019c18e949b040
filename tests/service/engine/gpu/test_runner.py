"""A plan that is run at once gives what the plain runner gives."""

import torch
from serving import generation_request, gpu_runner, toy_runner
from toys import toy_decoder, toy_tokenizer

from service.engine.pytorch.runner import StepRunner
from service.engine.scheduling.plan import Chunk, Plan
from service.engine.scheduling.sequence import Sequence


def test_all_logits_of_a_plan_are_those_of_the_plain_runner() -> None:
    decoder = toy_decoder(4).double()
    runners: list[StepRunner] = [gpu_runner(decoder), toy_runner(decoder)]
    prompts = {0: (5, 6, 7, 8), 1: (9, 10, 11), 2: (3,)}
    sequences = {}
    for slot, prompt_ids in prompts.items():
        request = generation_request(str(slot), prompt_ids)
        sequences[slot] = Sequence(request, toy_tokenizer())
        sequences[slot].slot = slot
    first = Plan(
        (Chunk(sequences[2], 0, 1), Chunk(sequences[0], 0, 2), Chunk(sequences[1], 0, 3)), ()
    )
    rest = Plan((Chunk(sequences[0], 2, 4),), ())
    none = Plan((Chunk(sequences[1], 0, 2),), ())
    for plan, count in ((first, 2), (rest, 1), (none, 0)):
        ours, plain = (runner.run(plan) for runner in runners)
        assert ours.is_finite == plain.is_finite
        assert ours.logits.shape == plain.logits.shape == (count, decoder.config.vocab_size)
        torch.testing.assert_close(ours.logits.double(), plain.logits, rtol=0, atol=1e-5)
