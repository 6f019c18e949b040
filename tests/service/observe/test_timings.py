import pytest

from service.observe.timings import Timeline


def test_latencies_follow_from_the_moments() -> None:
    timeline = Timeline(arrived=10.0)
    timeline.started = 10.5
    assert timeline.on_token(11.0) is None, "the first token has none before it"
    assert timeline.on_token(11.25) == 0.25
    assert timeline.on_token(12.0) == 0.75
    timeline.finished = 12.5
    assert (timeline.queue_s, timeline.prefill_s, timeline.decode_s) == (0.5, 0.5, 1.0)
    assert (timeline.ttft_s, timeline.total_s) == (1.0, 2.5)


@pytest.mark.parametrize("name", ["queue_s", "prefill_s", "decode_s", "ttft_s", "total_s"])
def test_what_has_not_happened_has_no_latency(name: str) -> None:
    assert getattr(Timeline(arrived=1.0), name) is None


def test_a_single_token_took_no_time_to_decode() -> None:
    timeline = Timeline(arrived=1.0)
    timeline.on_token(2.0)
    assert timeline.decode_s == 0.0
    assert timeline.first_token == timeline.last_token == 2.0


def test_tokens_of_one_step_share_its_time_evenly() -> None:
    timeline = Timeline(arrived=0.0)
    timeline.on_token(1.0)
    assert [timeline.on_token(2.5, num_left) for num_left in (3, 2, 1)] == [0.5, 0.5, 0.5]
    assert timeline.last_token == 2.5
    assert timeline.on_token(2.75) == 0.25
