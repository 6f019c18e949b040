import json
import os
import resource
import signal
from pathlib import Path

import pytest
from toy_events import evaluated, trained

from trainer.report.events import Note, Published, Sampled, Snapshotted
from trainer.report.run_journal import Journal, read_lines


def steps_of(path: Path) -> list[int]:
    return [line["step"] for line in read_lines(path)]


def sampled(step: int, text: str = "") -> Sampled:
    return Sampled(step=step, prompt="", text=text)


def test_lines_come_back_in_order_with_their_kind(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for event in (
        trained(1, loss=2.5, resident_bytes=7),
        evaluated(1, bits_per_byte=2.0, gap=None),
        Snapshotted(step=1, stall_s=0.25),
        Published(step=1, write_s=1.5, error=None),
        Published(step=2, write_s=0.1, error="No space left on device"),
        Note("said, not kept"),
        sampled(1, "Zounds!\u2028\n'Sblood"),
    ):
        journal.hear(event)
    train, evaluation, *checkpoints = read_lines(tmp_path / "metrics.jsonl")
    assert (train["kind"], train["step"], train["loss"]) == ("train", 1, 2.5)
    assert (train["resident_bytes"], train["gpu_bytes"]) == (7, None)
    assert (evaluation["kind"], evaluation["bits_per_byte"]) == ("evaluation", 2.0)
    assert (evaluation["gap"], evaluation["memorising"]) == (None, False)
    assert checkpoints == [
        {"kind": "snapshot", "step": 1, "stall_s": 0.25},
        {"kind": "published", "step": 1, "write_s": 1.5, "error": None},
        {"kind": "published", "step": 2, "write_s": 0.1, "error": "No space left on device"},
    ]
    assert read_lines(tmp_path / "samples.jsonl") == [
        {"step": 1, "prompt": "", "text": "Zounds!\u2028\n'Sblood"}
    ]


def test_rewinding_drops_each_kind_past_its_own_step(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(1, 7):
        journal.hear(trained(step))
        journal.hear(sampled(step))
        journal.hear(Snapshotted(step=step, stall_s=0.1))
    for step in (2, 4, 6):
        journal.hear(evaluated(step))
    journal.rewind(trained=5, evaluated=2, sampled=3)
    lines = read_lines(tmp_path / "metrics.jsonl")
    for kind, left in (("train", 5), ("snapshot", 5)):
        assert [line["step"] for line in lines if line["kind"] == kind] == [*range(1, left + 1)]
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [2]
    assert steps_of(tmp_path / "samples.jsonl") == [1, 2, 3]


def test_rewinding_to_where_the_run_stands_writes_nothing(tmp_path: Path) -> None:
    """A full disk does not keep a run from going on."""
    journal = Journal(tmp_path)
    journal.hear(trained(1))
    before = (tmp_path / "metrics.jsonl").stat()
    journal.rewind(trained=1, evaluated=0, sampled=0)
    after = (tmp_path / "metrics.jsonl").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_rewinding_a_run_that_has_no_journal_makes_none(tmp_path: Path) -> None:
    Journal(tmp_path).rewind(trained=0, evaluated=0, sampled=0)
    assert list(tmp_path.iterdir()) == []


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1}\n{"kind": "tr')
    assert steps_of(path) == [1]
    Journal(tmp_path).rewind(trained=9, evaluated=9, sampled=9)
    Journal(tmp_path).hear(trained(2))
    assert steps_of(path) == [1, 2]


def test_a_missing_journal_reads_as_empty(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "metrics.jsonl") == []


def test_every_line_is_strict_json(tmp_path: Path) -> None:
    Journal(tmp_path).hear(evaluated(1, validation_loss=float("inf"), gap=float("nan")))
    (text,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    line = json.loads(text, parse_constant=pytest.fail)
    assert (line["validation_loss"], line["gap"], line["bits_per_byte"]) == (None, None, 2.9)


def test_lines_that_find_no_room_wait_and_come_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit on the file's size stands for the disk that is full."""
    journal = Journal(tmp_path)
    journal.hear(trained(1))
    path = tmp_path / "metrics.jsonl"
    before = path.read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 40, limits[1]))
    try:
        journal.hear(trained(2))
        journal.hear(trained(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before, "no part of a line"
    assert caplog.text.count("metrics.jsonl waits for room") == 1
    journal.hear(trained(4))
    assert steps_of(path) == [1, 2, 3, 4]


def test_a_line_cut_inside_a_character_does_not_keep_a_run_from_going_on(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    journal = Journal(tmp_path)
    journal.hear(sampled(1, "Был"))
    journal.hear(sampled(2, "Был"))
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex("л".encode()) + 1])
    assert steps_of(path) == [1]
    Journal(tmp_path).rewind(trained=9, evaluated=9, sampled=9)
    Journal(tmp_path).hear(sampled(2, "Был"))
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "odd",
    [
        b"\xff\xfe",
        b"null",
        b"[1]",
        b'{"kind": "train"}',
        b'{"kind": "train", "step": null}',
        b"[" * 100_000,
        b'{"step": 1' + b"0" * 5000 + b"}",
        b"\0" * 4096,
    ],
    ids=lambda odd: str(odd[:20]),
)
def test_an_odd_line_is_dropped_and_others_stay_as_they_are(tmp_path: Path, odd: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    first = b'{"kind":"train",  "step":1, "of": "\\ud800"}\n{"kind": ["x"], "step": 1}\n'
    path.write_bytes(first + odd + b'\n{"kind": "train", "step": 2}\n')
    assert steps_of(path) == [1, 1, 2]
    Journal(tmp_path).rewind(trained=1, evaluated=1, sampled=1)
    assert path.read_bytes() == first


def test_a_pipe_for_a_journal_does_not_stop_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    journal = Journal(tmp_path)
    journal.rewind(trained=1, evaluated=1, sampled=1)
    journal.hear(trained(1))
    assert "metrics.jsonl waits for room" in caplog.text
    (tmp_path / "metrics.jsonl").unlink()
    journal.hear(trained(2))
    assert steps_of(tmp_path / "metrics.jsonl") == [1, 2]
