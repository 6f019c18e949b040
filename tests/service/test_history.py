import json
from pathlib import Path

import pytest
from serving import LiveService, toy_settings
from toy_run import train_toy
from toys import publish_toy

from service.history import MAX_POINTS, METRICS_FILE, SAMPLES_FILE, read_history


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
    history = read_history(tmp_path)
    assert len(history.training) <= MAX_POINTS
    assert history.training[-1] == (4999, 1.0)
    assert history.samples == []


def test_a_journal_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text(json.dumps({"step": 1, "prompt": "a", "text": "b"}))
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / SAMPLES_FILE).symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        read_history(run_dir)
