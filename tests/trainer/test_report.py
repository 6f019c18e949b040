import logging
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.checkpoint import Written
from trainer.evaluate import Evaluation
from trainer.journal import Journal, read_lines
from trainer.optimizer import Rates
from trainer.progress import LOGGER, Bar
from trainer.report import Report, seconds_left
from trainer.samples import Sample
from trainer.state import Counters

RATES = Rates(lr=1e-3, muon_lr=2e-2, weight_decay=0.0)


@pytest.fixture
def report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Report]:
    with caplog.at_level(logging.INFO, LOGGER):
        yield Report(Journal(tmp_path), Bar(None, None), total_steps=100, resumed=Counters())


def counters(step: int, seconds: float) -> Counters:
    return Counters(micro_step=step, tokens_seen=64 * step, train_seconds=seconds, loss_average=3.5)


def test_speed_is_of_the_training_since_the_line_before(report: Report, tmp_path: Path) -> None:
    for step, seconds in ((10, 2.0), (20, 6.0)):
        report.trained(step, counters(step, seconds), loss=3.0, gradient_norm=1.5, rates=RATES)
    first, second = read_lines(tmp_path / "metrics.jsonl")
    assert first["tokens_per_s"] == 320.0
    assert second["tokens_per_s"] == 160.0
    assert second["loss"] == 3.0
    assert second["loss_average"] == 3.5
    assert second["learning_rate"] == 1e-3
    assert second["gradient_norm"] == 1.5


def test_a_resumed_run_s_first_speed_leaves_out_what_came_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resumed = Report(
        Journal(tmp_path), Bar(None, None), total_steps=100, resumed=counters(50, 100.0)
    )
    resumed.trained(60, counters(60, 110.0), loss=3.0, gradient_norm=1.0, rates=RATES)
    assert read_lines(tmp_path / "metrics.jsonl")[0]["tokens_per_s"] == 64.0


def test_an_evaluation_tells_the_gap_to_the_training_average(
    report: Report, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report.evaluated(10, counters(10, 2.0), Evaluation(4.0, 2.25, 512), seconds=0.5)
    (line,) = read_lines(tmp_path / "metrics.jsonl")
    assert line["kind"] == "evaluation"
    assert line["bits_per_byte"] == 2.25
    assert line["gap"] == pytest.approx(0.5)
    assert "2.250 bits/byte, loss 4.000 (gap +0.500)" in caplog.text


def test_samples_are_kept_and_shown(
    report: Report, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report.sampled(10, Sample("ROMEO:\n", "O, night!"))
    assert read_lines(tmp_path / "samples.jsonl") == [
        {"step": 10, "prompt": "ROMEO:\n", "text": "O, night!"}
    ]
    assert "ROMEO:\nO, night!" in caplog.text


def test_control_characters_never_reach_the_terminal_but_stay_in_the_file(
    report: Report, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report.sampled(10, Sample("a\tb\n", "\x1b[2J\x07c"))
    assert "a\tb\n\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}c" in caplog.text
    assert "\x1b" not in caplog.text
    assert read_lines(tmp_path / "samples.jsonl")[0]["text"] == "\x1b[2J\x07c"


def test_a_write_that_failed_is_an_error_that_says_what_still_stands(
    report: Report, caplog: pytest.LogCaptureFixture
) -> None:
    report.written(Written(10, 0.2, None))
    report.written(Written(20, 0.1, OSError("No space left on device")))
    assert "step 10 · checkpoint visible after 0.20 s" in caplog.text
    assert "step 20 could not be saved: No space left on device" in caplog.text
    assert caplog.records[-1].levelno == logging.ERROR


def test_the_time_left_is_extrapolated_from_the_mean() -> None:
    assert seconds_left(25, 100, 50.0) == 150.0
    assert seconds_left(100, 100, 50.0) == 0.0
    assert math.isinf(seconds_left(0, 100, 0.0))
