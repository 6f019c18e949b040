import json
import sys

import pytest
import torch

from bench.training import gpu
from bench.training.gpu_sides import Follow
from bench.training.measured import Measured, Shape
from trainer.report.events import Snapshotted, Trained


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_every_side_but_the_compiled_ones_is_measured_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = ["ours", "ours-muon", "plain-eager"]
    command = ["gpu", "--device", "cpu", "--quick", "--shapes", "2x16", "--sides", *sides]
    monkeypatch.setattr(sys, "argv", command)
    precision = torch.get_float32_matmul_precision()
    gpu.main()
    torch.set_float32_matmul_precision(precision)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["side"] for row in result["rows"]] == sides
    assert all(row["tokens_per_s"] > 0 for row in result["rows"])
    assert result["rows"][0]["stalls_s"]


def test_a_shape_counts_smollm2s_parameters() -> None:
    assert Shape(8, 2048).parameters == 134_515_008


def test_a_row_leaves_out_the_warm_up() -> None:
    measured = Measured(torch.device("cpu"))
    measured.seconds = [10.0, 5.0, 1.0, 2.0, 3.0]
    row = measured.row("ours", Shape(2, 50), 2, 1e12)
    assert (row["first_step_s"], row["tokens_per_s"], row["steps"]) == (10.0, 50, 3)


def test_steps_around_a_checkpoint_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 12.0, 12.001, 20.0, 23.0])
    monkeypatch.setattr("bench.training.gpu_sides.time.perf_counter", lambda: next(clock))
    measured = Measured(torch.device("cpu"))
    follow = Follow(measured, steps=9)
    for step in range(1, 6):
        follow.hear(trained(step))
        if step == 3:
            follow.hear(Snapshotted(step=step, stall_s=0.1))
            follow.hear(Snapshotted(step=step, stall_s=0.2))
    assert measured.seconds == [10.0, 2.0, 3.0]
    assert measured.extra["stalls_s"] == [0.1, 0.2]


def trained(step: int) -> Trained:
    return Trained(
        step=step,
        loss=1.0,
        loss_average=1.0,
        learning_rate=0.1,
        gradient_norm=1.0,
        tokens_seen=step,
        tokens_per_s=1.0,
        train_seconds=1.0,
        skipped_steps=0,
        resident_bytes=0,
        gpu_bytes=0,
    )
