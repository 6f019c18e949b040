from collections.abc import Iterator

import pytest

from playground.timing import Pace, Stopwatch


def test_a_pace_counts_the_tokens_after_the_first() -> None:
    assert Pace(num_tokens=101, ttft_s=0.5, total_s=2.5).tokens_per_s == 50


@pytest.mark.parametrize(
    "pace",
    [
        Pace(num_tokens=0, ttft_s=None, total_s=1.0),
        Pace(num_tokens=1, ttft_s=0.5, total_s=1.0),
        Pace(num_tokens=5, ttft_s=1.0, total_s=1.0),
    ],
)
def test_an_answer_without_time_between_tokens_has_no_speed(pace: Pace) -> None:
    assert pace.tokens_per_s is None


def test_a_stopwatch_takes_the_first_text_and_the_end() -> None:
    times: Iterator[float] = iter([10.0, 10.25, 12.25])
    watch = Stopwatch(lambda: next(times))
    watch.saw_text()
    watch.saw_text()
    assert watch.pace(9) == Pace(num_tokens=9, ttft_s=0.25, total_s=2.25)


def test_an_answer_without_text_has_no_first_token() -> None:
    times = iter([1.0, 3.0])
    assert Stopwatch(lambda: next(times)).pace(0) == Pace(num_tokens=0, ttft_s=None, total_s=2.0)
