"""The benchmark of flat steps runs; what it measures needs a card."""

import json
import sys

import pytest

pytest.importorskip("triton", reason="the kernels are written in Triton")

from bench import gpu_prefill


def test_it_runs_on_a_toy_and_finds_float32_exact(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_prefill", "--toy", "--device", "cpu", "--contexts", "9"])
    monkeypatch.setattr(gpu_prefill, "BUCKETS", gpu_prefill.BUCKETS[:2])
    monkeypatch.setattr(gpu_prefill, "GUESSES", ((2, 2),))
    gpu_prefill.main()
    first, second, *measured = map(json.loads, capsys.readouterr().out.splitlines())
    for errors in (first, second):
        assert errors["hidden_error"] < 1e-5
        assert errors["same_argmax"] == 1.0
    assert [line["rows"] for line in measured] == [16, 32, 16]
