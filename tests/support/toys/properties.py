"""How property tests run here: the same examples every time, however busy the machine is."""

from hypothesis import HealthCheck, settings


def examples(count: int) -> settings:
    """A decorator beside ``@given``: so many examples, always the same ones, no time limit."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
    )
