import json
from pathlib import Path

import pytest

from trainer.journal import Journal, read_lines


def steps_of(path: Path) -> list[int]:
    return [line["step"] for line in read_lines(path)]


def test_lines_come_back_in_order_with_their_kind(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.train({"step": 1, "loss": 2.5})
    journal.evaluation({"step": 1, "bits_per_byte": 2.0})
    journal.sample({"step": 1, "text": "Zounds!\u2028\n'Sblood"})
    assert read_lines(tmp_path / "metrics.jsonl") == [
        {"kind": "train", "step": 1, "loss": 2.5},
        {"kind": "evaluation", "step": 1, "bits_per_byte": 2.0},
    ]
    assert read_lines(tmp_path / "samples.jsonl") == [{"step": 1, "text": "Zounds!\u2028\n'Sblood"}]


def test_rewinding_drops_each_kind_past_its_own_step(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(1, 7):
        journal.train({"step": step})
        journal.sample({"step": step})
    for step in (2, 4, 6):
        journal.evaluation({"step": step})
    journal.rewind(trained=5, evaluated=2, sampled=3)
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [2]
    assert steps_of(tmp_path / "samples.jsonl") == [1, 2, 3]


def test_rewinding_a_run_that_has_no_journal_makes_none(tmp_path: Path) -> None:
    Journal(tmp_path).rewind(trained=0, evaluated=0, sampled=0)
    assert list(tmp_path.iterdir()) == []


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1}\n{"kind": "tr')
    assert steps_of(path) == [1]
    Journal(tmp_path).rewind(trained=9, evaluated=9, sampled=9)
    Journal(tmp_path).train({"step": 2})
    assert steps_of(path) == [1, 2]


def test_a_missing_journal_reads_as_empty(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "metrics.jsonl") == []


def test_every_line_is_strict_json(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.train({"step": 1, "loss": float("nan")})
    journal.train({"step": 1, "loss": 1.0})
    (text,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(text)["loss"] == 1.0
