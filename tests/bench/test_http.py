import pytest

from bench.http import KINDS, measure

MAX_SHARE = {"service": 0.5}
"""Of a core at 5,000 tokens a second; the others are there to compare with."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_protocol_takes_under_half_a_core_at_5000_tokens_a_second(kind: str) -> None:
    assert 0 < measure(kind)["share_of_a_core"] < MAX_SHARE.get(kind, 2)
