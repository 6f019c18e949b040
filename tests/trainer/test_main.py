"""The command line, end to end."""

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from machine_tools import free_port
from serving import Exposition
from toy_run import journal_of, toy_recipe

from lm.machine.cores import usable_cores
from lm.volume import list_steps, newest_step
from trainer import options
from trainer.__main__ import main
from trainer.recipe.recipes import list_recipes


@pytest.fixture(autouse=True)
def _own_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(toy_recipe().to_dict()))
    return path


def train(recipe_path: Path, *arguments: str) -> int:
    volume = recipe_path.parent / "volume"
    return main(
        ["--recipe", str(recipe_path), "--volume", str(volume), "--threads", "1", *arguments]
    )


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error that is not the log."""
    lines = [line for line in capsys.readouterr().err.splitlines() if "trainer: error: " in line]
    assert len(lines) == 1, lines
    return lines[0]


def test_a_recipe_trains_into_a_run_of_its_own_name(recipe_path: Path) -> None:
    assert train(recipe_path, "--steps", "2") == 0
    step = newest_step(recipe_path.parent / "volume" / "toy")
    assert step is not None
    assert step.name == "toy@2"


def test_the_same_command_goes_on_and_a_finished_run_says_so(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(recipe_path, "--steps", "2") == 0
    assert train(recipe_path) == 0
    assert "run toy: going on from step 2 of 12 (optimizer steps)" in capsys.readouterr().err
    assert train(recipe_path) == 0
    assert "run toy is complete at step 12" in capsys.readouterr().err


def test_a_run_can_be_named_and_values_of_its_recipe_replaced(recipe_path: Path) -> None:
    assert train(recipe_path, "--run", "mine", "--set", "seed=7", "--steps", "1") == 0
    step = newest_step(recipe_path.parent / "volume" / "mine")
    assert step is not None
    assert step.manifest.details.recipe_hash == toy_recipe("seed=7").recipe_hash


def test_a_text_of_one_s_own_replaces_the_recipe_s_sources(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = recipe_path.parent / "input.txt"
    text.write_text("First Citizen:\nSpeak, speak.\n\n" * 200)
    assert train(recipe_path, "--corpus", f"file:{text}", "--steps", "1") == 0
    assert f"{text}, the last 10% held out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "optimizer.lrr=1"], "unknown key 'lrr'; did you mean 'lr'?"),
        (["--set", "batch.length=500"], "batch.length 500 exceeds"),
        (["--corpus", "file:/nowhere.txt"], "/nowhere.txt: No such file or directory"),
        (["--corpus", "poems"], "none of shakespeare, code, math and file:PATH"),
        (["--device", "tpu9"], "unknown device 'tpu9'"),
        (["--set", "sources.0.max_bytes=200", "--set", "batch.length=64"], "do not fill one"),
    ],
)
def test_what_a_caller_can_put_right_is_one_line_and_status_2(
    arguments: list[str], message: str, recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(recipe_path, *arguments) == 2
    assert message in error_of(capsys)


def test_a_rate_without_an_extension_would_be_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["--lr", "1e-4"])
    assert leaving.value.code == 2
    assert "--lr is for --extend-steps" in capsys.readouterr().err


def test_a_finished_run_is_extended_and_a_changed_recipe_is_forced(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(recipe_path) == 0
    assert train(recipe_path, "--extend-steps", "2", "--lr", "1e-4") == 0
    assert "run toy is complete at step 14" in capsys.readouterr().err
    force = ["--set", "optimizer.weight_decay=0.5", "--force-recipe"]
    assert train(recipe_path, "--extend-steps", "3", *force) == 0
    log = capsys.readouterr().err
    assert "forced into the run's recipe: optimizer.weight_decay: 0.01 → 0.5" in log
    assert "step 14 · phase extension: constant, lr 0.0001, weight decay 0.5" in log
    assert "run toy is complete at step 15" in log


def test_a_small_recipe_is_described_as_it_would_train(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["describe", "--recipe", "gpt-80m", "--smoke", "--set", "phases.1.steps=5"]) == 0
    output = capsys.readouterr().out
    assert "gpt-80m-smoke" in output
    assert "29, which count optimizer steps" in output


def test_an_unknown_recipe_is_refused_with_its_neighbour(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--recipe", "tyny"]) == 2
    assert "did you mean 'tiny'?" in error_of(capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--run", name] for name in ("..", ".", ".x", "a/b", "/tmp/a", "a\nb", "a\0", "a b", "")),
        *(["--run", name] for name in ("x" * 101, "日" * 100, "step-00000500", "a\udcff")),
        ["--set", "name=../outside"],
        ["--set", "name=a b"],
    ],
    ids=str,
)
def test_a_run_outside_the_rule_of_names_is_refused_before_anything_is_written(
    arguments: list[str], recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(recipe_path.parent.rglob("*"))
    assert train(recipe_path, *arguments) == 2
    assert "is no name of a run" in error_of(capsys)
    assert sorted(recipe_path.parent.rglob("*")) == before


def test_a_name_in_any_script_trains_exports_and_is_listed(
    recipe_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(recipe_path, "--run", "пробег", "--steps", "1") == 0
    volume = recipe_path.parent / "volume"
    assert [step.name for step in list_steps(volume / "пробег")] == ["пробег@1"]
    where = ["--volume", str(volume), "--output", str(tmp_path / "out"), "--format", "torch"]
    assert main(["export", "пробег", *where, "--measure-tokens", "0"]) == 0
    push = ["--repo", "me/toy", "--volume", str(volume), "--dry-run"]
    assert main(["push", "пробег@1", *push]) == 0
    assert "would push пробег@1" in capsys.readouterr().out
    for name in ("../volume/пробег", "..", ".", "a\nb", "a\0", "\udcff"):
        assert main(["export", name, *where[:2], "--output", str(tmp_path / "no")]) == 2
        assert "no run" in error_of(capsys)


def test_a_volume_that_cannot_be_written_is_one_line_and_status_2(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recipe_path.parent / "volume").write_text("a file, not a directory")
    assert train(recipe_path) == 2
    assert "volume" in error_of(capsys)


@pytest.mark.parametrize(
    "arguments", [["--steps", "0"], ["--threads", "x"], ["--what"], ["--metrics-port", "65536"]]
)
def test_wrong_options_are_refused_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert leaving.value.code == 2


@pytest.mark.parametrize("command", [[], ["describe"], ["plot"], ["recipes"]])
def test_every_command_explains_itself(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([*command, "--help"])
    assert leaving.value.code == 0
    assert f"python -m trainer{' '.join(['', *command])}" in capsys.readouterr().out


def test_recipes_and_descriptions_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in list_recipes())
    assert main(["describe", "--recipe", "gpt-80m"]) == 0
    assert "Total: 80,375,808 trainable parameters" in capsys.readouterr().out


def test_a_run_s_curves_are_drawn_into_its_directory(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(recipe_path, "--steps", "4") == 0
    run_dir = recipe_path.parent / "volume" / "toy"
    assert main(["plot", str(run_dir)]) == 0
    assert capsys.readouterr().out == f"{run_dir / 'curves.png'}\n"
    assert (run_dir / "curves.png").stat().st_size > 10_000


def test_beside_a_service_a_core_is_left_and_priority_is_low() -> None:
    beside = options.parse_train(["--beside-service"])
    assert (beside.threads, beside.nice) == (max(1, usable_cores() - 1), 10)
    chosen = options.parse_train(["--beside-service", "--threads", "3", "--nice", "0"])
    assert (chosen.threads, chosen.nice) == (3, 0)
    alone = options.parse_train([])
    assert (alone.threads, alone.nice) == (None, 0)


def test_curves_are_also_written_for_tensorboard(recipe_path: Path) -> None:
    assert train(recipe_path, "--steps", "2", "--tensorboard") == 0
    board = recipe_path.parent / "volume" / "toy" / "tensorboard"
    (events,) = board.iterdir()
    assert events.stat().st_size > 500


def test_a_metrics_port_that_is_taken_is_one_line_and_status_2(
    recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert train(recipe_path, "--metrics-port", str(port)) == 2
    assert f"metrics on 127.0.0.1:{port}: Address already in use" in error_of(capsys)


def test_no_metrics_are_served_unless_asked_for() -> None:
    assert options.parse_train([]).metrics_port is None
    assert options.parse_train(["--metrics-port", "0"]).metrics_port is None
    assert options.parse_train(["--metrics-port", "9100"]).metrics_port == 9100


def test_sigterm_saves_the_last_completed_step_and_leaves_with_status_0(
    recipe_path: Path,
) -> None:
    volume = recipe_path.parent / "volume"
    port = free_port()
    command = [
        sys.executable, "-m", "trainer", "--recipe", str(recipe_path), "--volume", str(volume),
        "--threads", "1", "--set", "phases.0.steps=100000", "--metrics-port", str(port),
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        metrics = volume / "toy" / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size > 1000):
            time.sleep(0.02)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
            scraped = Exposition(response.read().decode())
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert "was interrupted; it is saved" in log
    assert scraped.value("trainer_step") > 0
    assert scraped.value("trainer_tokens_total") > 0
    step = newest_step(volume / "toy")
    assert step is not None
    assert (
        step.number == [line for line in journal_of(volume) if line["kind"] == "train"][-1]["step"]
    )
