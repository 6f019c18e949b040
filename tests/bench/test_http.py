import pytest

from bench.http import measure


@pytest.mark.slow
def test_the_protocol_takes_under_half_a_core_at_5000_tokens_a_second() -> None:
    assert measure("service")["share_of_a_core"] < 0.5
