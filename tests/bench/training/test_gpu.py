import json
import sys

import pytest
import torch

from bench.training import gpu
from bench.training.measured import Measured, Shape


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
