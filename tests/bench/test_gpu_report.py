"""From JSON lines to a dated file of results."""

import json
import sys
from pathlib import Path

import pytest

from bench import gpu_report

CARD = "NVIDIA H100 80GB HBM3"
OURS = {
    "benchmark": "gpu",
    "torch": "2.11.0",
    "card": CARD,
    "check": {"fused 17+20": 0.031, "greedy_misses": 0.0},
    "rates": [
        {"drawn": "greedy", "decode_1": 300.0, "e2e_1": 200.0, "decode_32": 9000.0, "e2e_32": 1.0},
        {"drawn": "temperature 0.8", "decode_1": 150.0, "e2e_1": 100.0},
    ],
    "first_token": {"ttft_512_ms": 2.0},
    "guesses": {"copying 1": 1.25},
    "faults": ["steps: something"],
}
THEIRS = {
    "benchmark": "gpu peer",
    "peer": "vllm 9.9",
    "rates": [{"drawn": "greedy", "decode_1": 100.0, "e2e_1": 100.0}],
    "first_token": {"ttft_512_ms": 5.0},
}
HTTP = {
    "benchmark": "gpu http",
    "rate_1": 50.0,
    "ttft_1_p50_ms": 3.0,
    "ready_s": 4.5,
    "swap_before_p99_ms": 2.0,
    "swap_before_p50_ms": 1.0,
    "swap_before_max_ms": 9.0,
    "appear_to_serve_s": [0.5, 0.6],
}
TRAINING = {
    "benchmark": "training-gpu",
    "rows": [
        {"side": "ours", "shape": "8 x 2048", "tokens_per_s": 1000.0, "mfu": 0.5},
        {"side": "huggingface", "shape": "8 x 2048", "error": "ImportError()"},
    ],
}


def logged(*rows: object) -> str:
    """A log with other lines between."""
    return "\n".join(["loading", "{'not': 'json'}", "{}", *(json.dumps(row) for row in rows), "]"])


def test_lines_that_are_no_results_are_passed_over() -> None:
    assert gpu_report.json_lines(logged(OURS, {"other": 1}, HTTP)) == [OURS, HTTP]


@pytest.mark.parametrize(
    ("card", "name"),
    [
        (CARD, "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("NVIDIA GeForce RTX 4090", "geforce-rtx-4090"),
        ("AMD Instinct(TM) MI300X", "amd-instinct-tm-mi300x"),
    ],
)
def test_a_card_in_the_name_of_a_file(card: str, name: str) -> None:
    assert gpu_report.slug(card) == name


def test_tables_say_what_was_measured_and_nothing_else() -> None:
    rows = [OURS, THEIRS, HTTP, TRAINING]
    text = gpu_report.render(rows, [["engine", "ok", "71"]], "2026-01-02")
    lines = text.splitlines()
    assert lines[0] == "# On one NVIDIA H100 80GB HBM3, 2026-01-02"
    for line in (
        "| engine | ok | 71 |",
        "| fault | steps: something |",
        "|  | nestling | vllm 9.9 | times as fast |",
        "| decode x1, greedy | 300.0 | 100.0 | 3.00 |",
        "| decode x1, temperature 0.8 | 150.0 |  |  |",
        "| decode x32, greedy | 9000.0 |  |  |",
        "| end to end x1, greedy | 200.0 | 100.0 | 2.00 |",
        "| ttft_512_ms | 2.0 | 5.0 | 2.50 |",
        "| copying 1 | 1.25 |",
        "| 1 | 50.0 | 3.0 |  |  |  |",
        "| before | 1.0 | 2.0 | 9.0 |",
        "From a step's appearing until it serves: 0.5, 0.6 s.",
        "From the process's start to ready: 4.5 s.",
        "| ours | 8 x 2048 | 1000.0 | 0.5 |  |  |",
        "| huggingface | 8 x 2048 | ImportError() |  |  |  |",
    ):
        assert line in lines, line
    assert [json.loads(line) for line in lines if line.startswith("{")] == rows
    alone = gpu_report.render([HTTP], [], "2026-01-02")
    assert "engine alone" not in alone
    assert "vllm" not in alone


def test_kernels_of_every_shape_are_among_the_checks() -> None:
    small = {"benchmark": "gpu kernels", "layers": 2, "hidden_size": 128, "distance": 0.01}
    full = {"benchmark": "gpu kernels", "layers": 30, "hidden_size": 576, "distance": 0.03}
    rows = [full | {"transformers_misses": 0}, small | {"transformers_misses": None}]
    lines = gpu_report.render(rows, [], "2026-01-02").splitlines()
    assert "| distance, 30 layers of 576 | 0.03 |" in lines
    assert "| transformers misses, 30 layers of 576 | 0 |" in lines
    assert "| distance, 2 layers of 128 | 0.01 |" in lines
    assert "| transformers misses, 2 layers of 128 | not compared |" in lines


def test_vllm_alone_has_a_table_too() -> None:
    assert "| decode x1, greedy |  | 100.0 |  |" in gpu_report.render([THEIRS], [], "2026-01-02")


def test_no_file_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, steps, results = tmp_path / "a.log", tmp_path / "steps.tsv", tmp_path / "results"
    log.write_text(logged(OURS), "utf-8")
    steps.write_text("engine\tok\t5\n", "utf-8")
    arguments = ["gpu_report", str(log), "--steps", str(steps), "--results", str(results)]
    monkeypatch.setattr(sys, "argv", arguments)
    for _ in range(2):
        gpu_report.main()
    names = [Path(line).name for line in capsys.readouterr().out.split()]
    assert names[0].startswith("gpu_h100_20")
    assert names[1] == names[0].replace(".md", "_2.md")
    log.write_text("nothing", "utf-8")
    with pytest.raises(SystemExit, match="no result"):
        gpu_report.main()
