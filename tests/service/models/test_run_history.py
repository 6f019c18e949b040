import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import LiveService, toy_settings
from toy_run import train_toy
from toys import publish_toy
from toys.damage import socket_at
from toys.properties import examples

from service.http.operations.history import RunHistory
from service.models import journal
from service.models.journal import MAX_CHARACTERS
from service.models.run_history import (
    MAX_POINTS,
    MAX_SAMPLES,
    METRICS_FILE,
    SAMPLES_FILE,
    Histories,
)


def test_a_run_s_own_journals_are_read_and_what_took_over_is_remembered(tmp_path: Path) -> None:
    train_toy(tmp_path, last_step=6)
    with LiveService(toy_settings(tmp_path)) as service:
        service.wait_ready()
        answer = service.client.get("/runs/toy/history").json()
    assert [point["step"] for point in answer["training"]] == [1, 2, 3, 4, 5, 6]
    assert [point["step"] for point in answer["evaluations"]] == [4]
    assert answer["evaluations"][0]["bits_per_byte"] > 0
    assert {sample["prompt"] for sample in answer["samples"]} == {"1 + 1", "2"}
    assert [served["name"] for served in answer["served"]] == ["toy@6"]


def test_a_run_that_is_not_there_is_a_404(tmp_path: Path) -> None:
    publish_toy(tmp_path, "toy", 1)
    with LiveService(toy_settings(tmp_path)) as service:
        service.wait_ready()
        assert service.client.get("/runs/tiny/history").status_code == 404
        assert service.client.get("/runs/..%2F..%2Fetc/history").status_code == 404
        assert service.client.get("/runs/toy/history").json()["training"] == []


def test_broken_lines_are_left_out_and_many_are_thinned(tmp_path: Path) -> None:
    lines = [json.dumps({"kind": "train", "step": step, "loss": 1.0}) for step in range(5000)]
    (tmp_path / METRICS_FILE).write_text("\n".join([*lines, '{"kind": "tr', "[]", '{"a": 1}']))
    history = Histories().read(tmp_path)
    assert MAX_POINTS // 2 <= len(history.training) <= MAX_POINTS
    assert history.training[-1] == (4999, 1.0)
    assert history.samples == []


def read(run_dir: Path) -> tuple[list[int], list[int]]:
    history = Histories().read(run_dir)
    return [point.step for point in history.training], [one.step for one in history.samples]


def link_to_secret(path: Path) -> None:
    secret = path.parent.with_name("secret.jsonl")
    secret.write_text(json.dumps({"step": 1, "prompt": "a", "text": "b"}))
    path.symlink_to(secret)


@pytest.mark.parametrize(
    "make",
    [link_to_secret, os.mkfifo, Path.mkdir, socket_at, lambda path: path.symlink_to("/dev/zero")],
    ids=["link", "pipe", "directory", "socket", "device"],
)
def test_what_is_no_journal_is_an_empty_one(tmp_path: Path, make: Callable[[Path], object]) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    make(run_dir / SAMPLES_FILE)
    (run_dir / METRICS_FILE).write_text(TRAIN + "\n")
    assert read(run_dir) == ([1], [])


TRAIN = '{"kind": "train", "step": 1, "loss": 2.5}'
ODD = {
    "not JSON": b"{",
    "not UTF-8": b'{"kind": "train", "step": 2, "loss": 1.0, "a": "\xff\xfe"}',
    "cut inside a character": '{"kind": "train", "step": 2, "prompt": "я'.encode()[:-1],
    "binary": bytes(range(256)),
    "a list": b"[1, 2]",
    "null": b"null",
    "no step": b'{"kind": "train", "loss": 1.0}',
    "no loss": b'{"kind": "train", "step": 2}',
    "a step that is null": b'{"kind": "train", "step": null, "loss": 1.0}',
    "a step that is true": b'{"kind": "train", "step": true, "loss": 1.0}',
    "a step of 400 digits": b'{"kind": "train", "step": 1' + b"0" * 400 + b', "loss": 1.0}',
    "a step of 5,000 digits": b'{"kind": "train", "step": 1' + b"0" * 5000 + b', "loss": 1.0}',
    "a loss that is text": b'{"kind": "train", "step": 2, "loss": "low"}',
    "a kind that is a list": b'{"kind": ["train"], "step": 2, "loss": 1.0}',
    "deep nesting": b'{"kind": "train", "step": 2, "loss": ' + b"[" * 60_000 + b"}",
    "a line of 1 MB": b'{"kind": "train", "step": 2, "loss": 1.0, "a": "' + b"a" * 2**20 + b'"}',
    "an evaluation without values": b'{"kind": "evaluation", "step": 2}',
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_line_is_left_out(tmp_path: Path, kind: str) -> None:
    (tmp_path / METRICS_FILE).write_bytes(TRAIN.encode() + b"\n" + ODD[kind] + b"\n")
    (tmp_path / SAMPLES_FILE).write_bytes(ODD[kind] + b"\n" + ODD[kind] + b"\n")
    assert read(tmp_path) == ([1], [])
    assert Histories().read(tmp_path).evaluations == []


@pytest.mark.parametrize("loss", ["NaN", "-Infinity", "1" + "0" * 400, "null"])
def test_a_loss_that_is_not_finite_is_null(tmp_path: Path, loss: str) -> None:
    (tmp_path / METRICS_FILE).write_text(f'{{"kind": "train", "step": 1, "loss": {loss}}}\n')
    assert Histories().read(tmp_path).training == [(1, None)]


def test_samples_can_be_written_in_an_answer_and_are_bounded(tmp_path: Path) -> None:
    odd = {"step": 1, "prompt": "\ud800", "text": "a\udcffb" + "c" * 50_000}
    lines = [json.dumps(odd | {"step": step}) for step in range(300)]
    (tmp_path / SAMPLES_FILE).write_text("\n".join(lines) + "\n")
    samples = Histories().read(tmp_path).samples
    assert len(samples) <= MAX_SAMPLES
    assert samples[-1].step == 299
    assert samples[-1].prompt == "\ufffd"
    assert samples[-1].text == "a\ufffdb" + "c" * (MAX_CHARACTERS - 3)


def test_only_what_was_appended_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []
    objects = journal._objects

    def counting(content: bytes) -> list[dict[str, Any]]:
        parsed.append(len(content))
        return objects(content)

    monkeypatch.setattr(journal, "_objects", counting)
    path, histories = tmp_path / METRICS_FILE, Histories()
    lines = [json.dumps({"kind": "train", "step": n, "loss": 1.0}) + "\n" for n in range(4)]
    path.write_text("".join(lines[:2]) + lines[2][:-5])
    for _ in range(3):
        assert [point.step for point in histories.read(tmp_path).training] == [0, 1]
    assert parsed == [sum(map(len, lines[:2]))]
    with path.open("a") as file:
        file.write(lines[2][-5:] + lines[3])
    assert [point.step for point in histories.read(tmp_path).training] == [0, 1, 2, 3]
    assert parsed[1:] == [sum(map(len, lines[2:]))]
    rewound = path.with_name("rewound")  # as a trainer does that goes on from an earlier step
    rewound.write_text("".join(lines[:1]))
    rewound.replace(path)
    assert [point.step for point in histories.read(tmp_path).training] == [0]
    path.write_text("".join(lines[1:]))
    assert [point.step for point in histories.read(tmp_path).training] == [1, 2, 3]
    path.unlink()
    assert histories.read(tmp_path).training == []


def test_of_a_long_journal_the_end_is_read(tmp_path: Path) -> None:
    lines = [json.dumps({"kind": "train", "step": n, "loss": 1.0}) for n in range(120_000)]
    (tmp_path / METRICS_FILE).write_text("\n".join(lines) + "\n")
    training = Histories().read(tmp_path).training
    assert training[0].step > 1000
    assert training[-1].step == 119_999
    assert len(training) <= MAX_POINTS


@examples(100)
@given(content=st.binary(max_size=200), at=st.integers(0, 60))
def test_any_bytes_are_a_journal(content: bytes, at: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path, sound = Path(directory) / METRICS_FILE, f"{TRAIN}\n".encode()
        path.write_bytes(sound[:at] + content + sound[at:])
        RunHistory.model_validate(
            {"run": "a", "samples": [], "served": [], "evaluations": []}
            | {"training": [p._asdict() for p in Histories().read(Path(directory)).training]}
        ).model_dump_json()


def test_a_journal_that_cannot_be_read_just_now_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / METRICS_FILE).write_text(TRAIN + "\n")

    def fail(path: Path) -> BinaryIO:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    histories = Histories()
    with monkeypatch.context() as failing:
        failing.setattr(journal, "open_plain", fail)
        with pytest.raises(OSError, match="Input/output"):
            histories.read(tmp_path)
    assert [point.step for point in histories.read(tmp_path).training] == [1]
