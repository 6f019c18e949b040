"""Schemathesis over our own OpenAPI: requests that fit the schema, and such that just do not."""

from collections import Counter
from typing import Any

import hypothesis
import pytest
import schemathesis
from fuzzing import ADMIN_KEY, unharmed
from hypothesis import HealthCheck
from schemathesis import GenerationMode
from serving import ServiceProcess

MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
HEADERS = {"authorization": f"Bearer {ADMIN_KEY}"}


@pytest.mark.parametrize(
    ("total", "at_least"),
    [(60, 40), pytest.param(6000, 5000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
)
def test_what_the_schema_can_say_is_answered(
    service: ServiceProcess, total: int, at_least: int
) -> None:
    schema = schemathesis.openapi.from_url(f"{service.client.base_url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    share = total // sum(2 for operation in operations if operation.method == "post")
    with unharmed(service):
        statuses: Counter[int] = Counter()
        for operation in operations:
            for mode in MODES:
                statuses += answers(operation, mode, share)
    assert statuses.total() >= at_least
    assert {200, 400, 404, 422} <= statuses.keys()


def answers(operation: Any, mode: GenerationMode, count: int) -> Counter[int]:
    """Statuses of so many requests to one route; fewer where the schema allows fewer."""
    statuses: Counter[int] = Counter()

    @hypothesis.settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        response = case.call(headers=HEADERS, timeout=20)
        statuses[response.status_code] += 1
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert "error" in response.json(), "the one shape"

    try:
        ask()
    except hypothesis.errors.Unsatisfiable:
        assert not statuses, "nothing can be wrong with a route that takes nothing"
    return statuses
