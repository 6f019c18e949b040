"""The overlapped engine over the Triton kernels, in the interpreter, against the slow reference."""

import itertools

import pytest
from serving import generation_request, gpu_runner, reference_ids
from toys import toy_config, toy_decoder, toy_tokenizer

pytest.importorskip("triton", reason="the kernels are written in Triton")

import torch

from service.engine.gpu.buffers.weight_set import HEAD_ROWS
from service.engine.gpu.fused import FusedKernels, FusedSampler
from service.engine.gpu.kernels import choices
from service.engine.gpu.verification import distances
from service.engine.overlapped import OverlappedEngine
from service.engine.request import TokenGenerated

CONFIG = toy_config(
    hidden_size=64,
    intermediate_size=48,
    num_attention_heads=2,
    num_key_value_heads=1,
    num_hidden_layers=1,
    vocab_size=100,
    max_position_embeddings=32,
)
SLOTS = 3


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs programs one after the other, so they had better be large."""
    monkeypatch.setattr(choices, "PROGRAMS", 20)


def test_answers_are_those_of_the_slow_reference() -> None:
    decoder = toy_decoder(3, CONFIG)
    sampler = FusedSampler(HEAD_ROWS[-1], CONFIG.vocab_size, SLOTS + 1, torch.device("cpu"))
    runner = gpu_runner(
        decoder, num_slots=SLOTS, max_step_tokens=16, kernels=FusedKernels(), sampler=sampler
    )
    engine = OverlappedEngine(runner, toy_tokenizer(), max_step_tokens=16)
    samplings = itertools.cycle(
        [
            {},
            {"temperature": 0.9, "seed": 4},
            {"temperature": 0.8, "seed": 5, "top_k": 20, "top_p": 0.9},
            {"repetition_penalty": 1.4, "temperature": 0.7, "seed": 6},
        ]
    )
    prompts = [(5, 6, 7), (5, 6, 7, 9, 11), tuple(range(1, 18)), (77,) * 3]
    requests = [
        generation_request(str(n), prompt, max_new_tokens=3, **next(samplings))
        for n, prompt in enumerate(prompts)
    ]
    answers: dict[str, list[int]] = {request.request_id: [] for request in requests}
    for request in requests:
        engine.submit(request)
    while not engine.is_idle:
        for event in engine.step():
            if isinstance(event, TokenGenerated):
                answers[event.request_id].append(event.token_id)
        engine.check_integrity()
    assert answers == {r.request_id: reference_ids(decoder, r) for r in requests}


def test_recorded_steps_say_what_the_definition_says() -> None:
    decoder = toy_decoder(5, CONFIG)
    sampler = FusedSampler(HEAD_ROWS[-1], CONFIG.vocab_size, SLOTS + 1, torch.device("cpu"))
    runner = gpu_runner(decoder, num_slots=SLOTS, kernels=FusedKernels(), sampler=sampler)
    token_ids = [7, 25, 3, 99, 99, 42, 1, 0]
    for num_prompt in (1, 6):
        got = runner.run_alone(token_ids, num_prompt)
        wanted = runner.score(token_ids)[num_prompt - 1 :]
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)
        reference = decoder(torch.tensor([token_ids]))[0, num_prompt - 1 :]
        torch.testing.assert_close(wanted, reference, rtol=0, atol=1e-4)
    assert max(distances(runner).values()) < 1e-4
