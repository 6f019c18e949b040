"""What counts as a token that the definition would not have drawn."""

from typing import Any

import pytest
import torch
from serving import generation_request

from bench.gpu_kernels_once import is_elsewhere
from lm.sampling import adjusted_logits, sample

KINDS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.9, "seed": 5},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 2},
    {"temperature": 0.7, "seed": 4, "repetition_penalty": 1.3, "logit_bias": ((7, 2.0),)},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_rounding_is_let_pass_and_another_token_is_not(kind: dict[str, Any]) -> None:
    request = generation_request("a", (1, 2, 3), **kind)
    generator = torch.Generator().manual_seed(0)
    wrong = 0
    for index in range(40):
        output_ids = list(range(10, 10 + index))
        logits = torch.randn(200, generator=generator)
        adjusted = adjusted_logits(logits, request.sampling, request.prompt_ids, output_ids)
        token_id = sample(adjusted, request.sampling, index)
        rounded = (logits + 0.01 * torch.randn(200, generator=generator)).bfloat16().float()
        assert not is_elsewhere(rounded, request, output_ids, token_id)
        wrong += is_elsewhere(logits, request, output_ids, (token_id + 77) % 200)
    assert wrong > 25
