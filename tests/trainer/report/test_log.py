import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
from toy_events import evaluated, trained

from trainer.report.events import Event, Note, Published, Sampled, Skipped, Snapshotted
from trainer.report.log import Log, seconds_left
from trainer.report.progress import LOGGER


class FakeBar:
    """Keeps what it was told to show."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, str]] = []

    def update(self, step: int, text: str, share: str = "") -> None:
        self.shown.append((step, text, share))


@pytest.fixture
def bar() -> FakeBar:
    return FakeBar()


@pytest.fixture
def log(bar: Any, caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    with caplog.at_level(logging.INFO, LOGGER):
        yield Log(bar, total_steps=100)


def test_a_step_shows_loss_average_rate_speed_and_memory_on_bar_and_line(
    log: Log, bar: FakeBar, caplog: pytest.LogCaptureFixture
) -> None:
    log.hear(trained(10, tokens_per_s=1234.4, share_of_peak=0.414))
    figures = "loss 4.000 avg 5.000 lr 1.0e-03 1,234 tok/s rss 1.5 GiB"
    assert bar.shown == [(10, figures, "41% of peak")]
    assert f"step 10/100 · {figures} · 41% of peak · eta 3:00" in caplog.text
    assert caplog.records[-1].on_bar  # type: ignore[attr-defined]


def test_on_a_gpu_its_memory_is_shown_instead(log: Log, bar: FakeBar) -> None:
    log.hear(trained(10, gpu_bytes=5 * 2**30))
    assert bar.shown[0][1].endswith("tok/s gpu 5.0 GiB")


def test_an_evaluation_tells_the_gap(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    log.hear(evaluated(10, bits_per_byte=2.25, validation_loss=4.0, gap=0.5))
    assert "2.250 bits/byte, loss 4.000 (gap +0.500) · 512 tokens in 0.5 s" in caplog.text
    assert "memorising" not in caplog.text


def test_memorising_is_a_warning_with_the_step_to_go_back_to(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.hear(evaluated(90, memorising=True, best_step=40, best_validation_loss=3.125))
    assert caplog.records[-1].levelno == logging.WARNING
    assert "step 90 · memorising: held-out loss was lowest at step 40 (3.125)" in caplog.text


def test_control_characters_never_reach_the_terminal(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.hear(Sampled(step=10, prompt="a\tb\n", text="\x1b[2J\x07c"))
    assert "a\tb\n\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}c" in caplog.text
    assert "\x1b" not in caplog.text


def test_a_write_that_failed_is_an_error_that_says_what_still_stands(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.hear(Published(step=10, write_s=0.2, error=None))
    log.hear(Published(step=20, write_s=0.1, error="No space left on device"))
    assert "step 10 · checkpoint visible after 0.20 s" in caplog.text
    assert "step 20 could not be saved: No space left on device" in caplog.text
    assert caplog.records[-1].levelno == logging.ERROR


@pytest.mark.parametrize(
    ("event", "level", "text"),
    [
        (Note("run toy: 100% new"), logging.INFO, "run toy: 100% new"),
        (Note("careful", is_warning=True), logging.WARNING, "careful"),
        (Snapshotted(step=5, stall_s=0.25), logging.INFO, "training stood still 0.250 s"),
        (
            Skipped(step=5, in_a_row=2, skipped_steps=7),
            logging.WARNING,
            "step 5 skipped: loss or gradient not finite; the weights are untouched "
            "(2 in a row, 7 in all)",
        ),
    ],
)
def test_every_other_event_is_a_line(
    event: Event, level: int, text: str, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.hear(event)
    assert text in caplog.records[-1].getMessage()
    assert caplog.records[-1].levelno == level


def test_the_time_left_is_extrapolated_from_the_mean() -> None:
    assert seconds_left(25, 100, 50.0) == 150.0
    assert seconds_left(100, 100, 50.0) == 0.0
    assert math.isinf(seconds_left(0, 100, 0.0))
