"""The service's engine as a GPU runs it: recorded steps, prefixes, guesses, draws, all at once."""

from typing import Any

import pytest
import torch
from serving import generation_request, pieces, reference_ids
from toys import toy_decoder, toy_tokenizer

from service.engine.engine import Engine
from service.engine.graphs.runner import GraphRunner
from service.engine.request import GenerationRequest, TokenGenerated
from service.models.kernels.backend import Backend, BackendOptions

PROMPTS = [(5, 6, 7), (5, 6, 7, 9, 11), tuple(range(1, 30)), (77,) * 12, (8, 9) * 9]


def toy_requests() -> list[GenerationRequest]:
    """Greedy and drawn ones, some with prompts that begin alike."""
    wanted: list[dict[str, Any]] = [
        {},
        {"temperature": 0.9, "seed": 4},
        {"temperature": 0.7, "seed": 5, "top_p": 0.8},
    ]
    return [
        generation_request(f"{n}", prompt, max_new_tokens=20, **wanted[n % 3])
        for n, prompt in enumerate(PROMPTS * 3)
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="serves on a GPU")
def test_tokens_are_those_of_the_slow_reference() -> None:
    device = torch.device("cuda")
    decoder = toy_decoder(0)
    backend = Backend(
        BackendOptions(device=device, dtype="float32", num_slots=4, max_step_tokens=16)
    )
    choice = backend.choose(decoder.config)
    runner = backend.runner(decoder.config, pieces(decoder), choice, 64)
    assert isinstance(runner, GraphRunner)
    engine = Engine(runner, toy_tokenizer(), max_step_tokens=16)
    requests = toy_requests()
    answers: dict[str, list[int]] = {request.request_id: [] for request in requests}
    for request in requests:
        engine.submit(request)
    while not engine.is_idle:
        for event in engine.step():
            if isinstance(event, TokenGenerated):
                answers[event.request_id].append(event.token_id)
    reference = decoder.double()
    assert answers == {r.request_id: reference_ids(reference, r) for r in requests}
