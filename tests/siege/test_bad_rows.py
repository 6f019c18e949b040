"""Ids that no model has: refused by name, and nobody beside them notices."""

import pytest
from serving import ServiceProcess, SteadyClient, assert_unhurt

BODIES = {
    "prompt": {"prompt": [5, 299_999]},
    "logit_bias": {"prompt": "a", "logit_bias": {"299999": 1}},
    "stop_token_ids": {"prompt": "a", "stop_token_ids": [299_999]},
    "huge prompt": {"prompt": [2**31]},
    "huge bias": {"prompt": "a", "logit_bias": {str(2**63): 1}},
    "huge stop": {"prompt": "a", "stop_token_ids": [2**31 - 1]},
}


@pytest.mark.parametrize("name", BODIES)
def test_an_id_beyond_the_model_is_refused_and_nobody_notices(
    name: str, service: ServiceProcess, steady: SteadyClient
) -> None:
    alone = steady.alone(0.5)

    def attack() -> None:
        for min_tokens in (0, 2):
            body = {"max_tokens": 3, "min_tokens": min_tokens, **BODIES[name]}
            answer = service.client.post("/v1/completions", json=body)
            assert answer.status_code in {400, 422}, answer.text

    assert_unhurt(steady.during(attack), alone)
