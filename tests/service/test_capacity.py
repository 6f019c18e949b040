from pathlib import Path

import pytest
import torch
from toys import publish_toy

from service.__main__ import main
from service.capacity import SHAPES, measured_flops, tokens_per_second

GIB = 2**30
RATES = ["--bandwidth", "10", "--gflops", "100"]


def test_published_shapes_have_the_published_sizes() -> None:
    assert {name: config.num_parameters for name, config in SHAPES.items()} == {
        "SmolLM2-135M": 134_515_008,
        "SmolLM2-360M": 361_821_120,
        "SmolLM2-1.7B": 1_711_376_384,
    }


def test_the_table_has_a_row_for_each_model_and_number_of_slots(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    publish_toy(tmp_path, "toy", 7)
    assert main(["capacity", f"--volume={tmp_path}", "--slots=1,32", *RATES]) == 0
    header, *rows, last = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert [row[0] for row in cells] == [n for n in (*SHAPES, "toy@7") for _ in range(2)]
    row = cells[1]
    assert row[:3] == ["SmolLM2-135M", "134,515,008", "32"]
    weights, cache = 134_515_008 * 2, 32 * 2048 * 2 * 30 * 3 * 64 * 2
    total = f"{(weights + cache) / GIB:.2f} GiB"
    assert row[3:6] == [f"{weights / GIB:.2f} GiB", f"{cache / GIB:.2f} GiB", total]
    assert "10.0 GB/s and 100 GFLOP/s" in " ".join(last)
    assert [cell.strip() for cell in header if cell.strip()][-1] == "tokens/s"


def test_one_sequence_is_bound_by_memory_and_many_by_arithmetic() -> None:
    config = SHAPES["SmolLM2-135M"]
    one = tokens_per_second(config, 1, 0, 2, bandwidth=10e9, flops=1e12)
    assert one == pytest.approx(10e9 / (2 * config.num_parameters))
    many = tokens_per_second(config, 4096, 0, 2, bandwidth=10e9, flops=1e12)
    assert many == pytest.approx(1e12 / (2 * config.num_parameters), rel=0.01)


def test_rates_are_measured_where_none_are_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("service.capacity.MEASURE_S", 0.001)
    monkeypatch.setattr("service.capacity.PROBE_BYTES", 1 << 20)
    monkeypatch.setattr("service.capacity.PROBE_SIZE", 32)
    assert main(["capacity", "--slots=1"]) == 0
    assert "GB/s and" in capsys.readouterr().out
    assert measured_flops(torch.float32) > 1e6


@pytest.mark.parametrize("arguments", [["--slots=0"], ["--tokens=0"], ["--slots=many"]])
def test_what_makes_no_sense_is_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["capacity", *arguments, *RATES]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_volume_without_checkpoints_is_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["capacity", f"--volume={tmp_path}", *RATES]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err
