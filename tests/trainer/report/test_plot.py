import json
from pathlib import Path

import pytest
from toy_events import evaluated, trained

from trainer.report.plot import comparable, plot
from trainer.report.run_journal import Journal, read_lines


def test_a_run_s_curves_become_a_png(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(1, 6):
        journal.hear(trained(step))
    for step in (2, 5):
        journal.hear(evaluated(step))
    journal.hear(evaluated(5, validation_loss=5.5, memorising=True))  # of all held-out text
    plot(tmp_path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no metrics; is .* a run"):
        plot(tmp_path, tmp_path / "curves.png")


def test_a_journal_of_an_older_version_is_drawn_without_what_it_lacks(tmp_path: Path) -> None:
    line = {"kind": "train", "step": 1, "loss": 2.0, "train_seconds": 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    plot(tmp_path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_only_evaluations_of_the_same_text_make_a_curve(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.hear(trained(1))
    for step, loss in ((2, 4.0), (5, 3.5), (5, 9.0)):
        journal.hear(evaluated(step, validation_loss=loss))
    lines = read_lines(tmp_path / "metrics.jsonl")[1:]
    assert [line["validation_loss"] for line in comparable(lines)] == [4.0, 3.5]
