import re
from pathlib import Path
from typing import NoReturn

import pytest
from serving.native import PRECISIONS, open_native
from toys import publish_toy

from service.__main__ import main
from service.capacity import (
    SHAPES,
    WEIGHT_BYTES,
    cache_bytes_per_token,
    measured_flops,
    tokens_per_second,
    weight_bytes,
)
from service.engine.native.packing import _total_bytes
from service.models.kernels.native import NoKernels

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
    weights, cache = 134_515_008, 32 * 2048 * 2 * 30 * 3 * 64 * 2
    total = f"{(weights + cache) / GIB:.2f} GiB"
    assert row[3:6] == [f"{weights / GIB:.2f} GiB", f"{cache / GIB:.2f} GiB", total]
    assert "10.0 GB/s and 100 GFLOP/s" in " ".join(last)
    assert [cell.strip() for cell in header if cell.strip()][-1] == "tokens/s"


def test_memory_is_what_each_precision_takes() -> None:
    config = SHAPES["SmolLM2-135M"]
    a_weight = {
        dtype: weight_bytes(config, dtype) / config.num_parameters for dtype in WEIGHT_BYTES
    }
    assert a_weight == pytest.approx({"float32": 4, "bfloat16": 2, "int8": 1, "int4": 0.704}, 1e-3)
    cache = {dtype: cache_bytes_per_token(config, dtype) for dtype in WEIGHT_BYTES}
    assert cache == {"float32": 46080, "bfloat16": 23040, "int8": 23040, "int4": 23040}


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_kernels_take_so_much_for_weights(dtype: str) -> None:
    library = open_native()
    config = SHAPES["SmolLM2-135M"]
    assert weight_bytes(config, dtype) == pytest.approx(_total_bytes(config, dtype, library), 0.01)


def test_the_page_has_the_table_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
    call = re.search(r"-m service (capacity .+)$", page, re.MULTILINE)
    assert call is not None
    assert main(call[1].split()) == 0
    _, *printed, _ = [
        re.split(r" {2,}", line.strip()) for line in capsys.readouterr().out.splitlines()
    ]
    name, rows = "", []
    for line in re.findall(r"^\|(.*GiB.*)\|$", page, re.MULTILINE):
        cells = [cell.strip() for cell in line.split("|")]
        name = cells[0] or name
        rows.append([name, *cells[1:]])
    assert rows == [[row[0], *row[2:]] for row in printed]


def test_one_sequence_is_bound_by_memory_and_many_by_arithmetic() -> None:
    config = SHAPES["SmolLM2-135M"]
    one = tokens_per_second(config, 1, 0, "bfloat16", bandwidth=10e9, flops=1e12)
    assert one == pytest.approx(10e9 / (2 * config.num_parameters))
    many = tokens_per_second(config, 4096, 0, "bfloat16", bandwidth=10e9, flops=1e12)
    assert many == pytest.approx(1e12 / (2 * config.num_parameters), rel=0.01)


def test_rates_are_measured_where_none_are_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("service.capacity.MEASURE_S", 0.001)
    monkeypatch.setattr("service.capacity.PROBE_BYTES", 1 << 20)
    monkeypatch.setattr("service.capacity.PROBE_SIZE", 32)
    assert main(["capacity", "--slots=1"]) == 0
    assert "GB/s and" in capsys.readouterr().out
    assert all(measured_flops(dtype) > 1e6 for dtype in WEIGHT_BYTES)
    monkeypatch.setattr("service.capacity.open_library", no_kernels)
    assert measured_flops("int8") > 1e6


def no_kernels() -> NoReturn:
    raise NoKernels("not here")


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
