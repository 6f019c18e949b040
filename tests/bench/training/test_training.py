"""The whole of ``python -m bench.training``, on models of one layer."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_quick_run_prints_a_table_and_last_a_json_line() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "bench.training", "--quick", "--shapes", "tiny 8 x 256",
         "--sides", "ours", "huggingface"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *table, last = finished.stdout.splitlines()
    result = json.loads(last)
    assert result["benchmark"] == "training"
    ours, theirs = result["rows"]
    assert (ours["side"], theirs["side"]) == ("ours", "huggingface")
    assert ours["ours_is_faster_by"] == 1.0
    assert theirs["ours_is_faster_by"] > 0
    assert abs(ours["first_loss"] - theirs["first_loss"]) < 0.01 * theirs["first_loss"]
    assert 0 < ours["share_of_peak"] < 1
    assert sum(line.startswith("| tiny") for line in table) == 2
