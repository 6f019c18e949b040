"""Ratios of one run are compared with those of another, whatever the machine did meanwhile."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import regression
from bench.regression import FIXED, RATES, TIMES, rows_of


def row(backend: str, precision: str, speed: float) -> dict[str, Any]:
    rates = dict.fromkeys(RATES, 100.0 * speed)
    times = dict.fromkeys(TIMES, 500.0 / speed)
    return {
        "precision": precision,
        "backend": backend,
        **rates,
        **times,
        "perplexity": 35.0,
        "peak_gb": 0.6,
    }


OLD = [row("native avx512", "int8", 4.0), row("native avx512", "bfloat16", 2.0)]
OLD.append(row("torch", "bfloat16", 1.0))


def result(rows: list[dict[str, Any]], benchmark: str = "engine") -> str:
    return "a table\n" + json.dumps({"benchmark": benchmark, "rows": rows}) + "\nmore\n"


def verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: list[dict[str, Any]], *options: str
) -> int:
    paths = tmp_path / "old.md", tmp_path / "new.md"
    for path, rows in zip(paths, (OLD, new), strict=True):
        path.write_text(result(rows), "utf-8")
    monkeypatch.setattr(sys, "argv", ["regression", *map(str, paths), *options])
    return regression.main()


def test_a_machine_half_as_fast_is_no_regression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = [row(str(r["backend"]), str(r["precision"]), r["decode_1"] / 200) for r in OLD]
    assert verdict(tmp_path, monkeypatch, slow) == 0


@pytest.mark.parametrize("figure", [*RATES, *TIMES, *FIXED])
def test_what_became_worse_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    figure: str,
) -> None:
    worse = copy.deepcopy(OLD)
    worse[0][figure] *= 0.7 if figure in RATES else 1.3
    assert verdict(tmp_path, monkeypatch, worse) == 1
    assert f"worse: native int8 {figure}\n" in capsys.readouterr().out
    assert verdict(tmp_path, monkeypatch, OLD) == 0
    if figure not in FIXED:
        assert verdict(tmp_path, monkeypatch, worse, "--tolerance", "0.5") == 0


def test_what_became_better_is_no_regression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    better = [row(str(r["backend"]), str(r["precision"]), r["decode_1"] / 50) for r in OLD[:2]]
    assert verdict(tmp_path, monkeypatch, [*better, OLD[2]]) == 0


def test_peers_are_left_out_and_ours_are_found_among_them() -> None:
    peers = [
        {"peer": "nestling native avx2", "precision": "int8"},
        {"peer": "nestling torch", "precision": "bfloat16"},
        {"peer": "llama.cpp", "precision": "Q8_0"},
    ]
    assert list(rows_of(result(peers, "peers"))) == ["native int8", "torch bfloat16"]
    with pytest.raises(ValueError, match="no result"):
        rows_of("nothing\n")
