"""``python -m trainer import`` of files that carry no config."""

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from toy_run import toy_recipe

from lm.huggingface import hub
from lm.model.decoder import Decoder
from lm.model.initialize import initialize
from lm.text.tokenizer import Tokenizer
from lm.volume import load_weights, newest_step
from trainer.__main__ import main
from trainer.convert.importing.__main__ import build_parser
from trainer.convert.importing.checkpoint import SUFFIXES
from trainer.convert.importing.source import carries_config
from trainer.recipe.recipes import list_recipes


class Files:
    """A recipe, a checkpoint of its model, and a tokenizer."""

    def __init__(self, directory: Path, tokenizer: Tokenizer) -> None:
        self.volume = directory / "volume"
        self.recipe = directory / "mine.yaml"
        self.checkpoint = directory / "checkpoint_step_40.pt"
        self.tokenizer = directory / "tokenizer"
        self.tokenizer.mkdir()
        tokenizer.save(self.tokenizer)
        recipe = toy_recipe("model.dropout=0.0")
        self.recipe.write_text(yaml.safe_dump(recipe.to_dict()))
        self.decoder = Decoder(recipe.model)
        initialize(self.decoder, seed=0)
        self.save()

    def save(self, **extra: Any) -> None:
        state = {"model_state_dict": self.decoder.state_dict(), "optimizer_state_dict": {}}
        torch.save(state | extra, self.checkpoint)

    def run(self, *arguments: str, source: Path | None = None) -> int:
        described = ["--recipe", str(self.recipe), "--tokenizer", str(self.tokenizer)]
        return self.run_bare(*described, *arguments, source=source)

    def run_bare(self, *arguments: str, source: Path | None = None) -> int:
        where = [str(source or self.checkpoint), "--volume", str(self.volume), "--run", "r"]
        return main(["import", *where, *arguments])


@pytest.fixture
def files(tmp_path: Path, tokenizer: Tokenizer) -> Files:
    return Files(tmp_path, tokenizer)


def test_a_checkpoint_becomes_a_step_of_its_own_number(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    assert files.run() == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{files.volume / 'r' / 'step-00000040'}: r@40, ")
    assert line.endswith("; left behind: optimizer_state_dict\n")
    step = newest_step(files.volume / "r")
    assert step is not None
    weights = load_weights(step)
    for name, weight in files.decoder.named_parameters():
        assert torch.equal(weights[name], weight)
    assert not step.manifest.details.resumable


def test_an_equal_import_does_nothing_and_any_other_is_refused(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    assert files.run() == files.run() == 0
    for change in (
        lambda: files.run("--dtype", "float16"),
        lambda: files.run("--set", "model.rope_theta=100000.0"),
        lambda: (files.save(loss=1.0), files.run())[1],
    ):
        capsys.readouterr()
        assert change() == 2
        assert "is there already; choose another --run or --step" in capsys.readouterr().err
    assert files.run("--step", "41") == 0


def test_a_tokenizer_that_cannot_be_had_is_never_replaced(
    files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, patterns: object) -> Path:
        raise ValueError(f"{source} cannot be had (no network)")

    monkeypatch.setattr(hub, "download", refuse)
    recipe = ["--recipe", str(files.recipe)]
    hub_recipe = ["--set", "tokenizer.source=hub:a/b", "--set", "tokenizer.offline_fallback=true"]
    for arguments, reason in (
        (recipe, "the recipe names no tokenizer"),
        (recipe + hub_recipe, "hub:a/b cannot be had (no network)"),
        ([*recipe, "--tokenizer", "hub:c/d"], "hub:c/d cannot be had (no network)"),
        ([*recipe, "--tokenizer", "absent.json"], "no tokenizer at absent.json"),
    ):
        assert files.run_bare(*arguments) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert "--tokenizer" in error
        assert error.count("\n") == 1
    assert not files.volume.exists()


def test_a_recipe_is_for_files_without_a_config(
    files: Files, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert files.run_bare() == 2
    assert "carries no config; give the --recipe" in capsys.readouterr().err
    assert files.run(source=model_dir) == 2
    assert "--recipe is for a .pt, .pth or .ckpt file" in capsys.readouterr().err
    assert files.run_bare("--rotary", "half", source=model_dir) == 2
    assert "--rotary is for a .pt, .pth or .ckpt file" in capsys.readouterr().err


def test_a_malicious_file_ends_in_one_line_and_status_2(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    class Program:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {files.volume}",)

    files.save(step=Program())
    assert files.run() == 2
    error = capsys.readouterr().err
    assert f"it asks for {os.system.__module__}.system, " in error
    assert error.count("\n") == 1
    assert not files.volume.exists()


def test_a_weight_too_large_for_float16_is_named(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.no_grad():
        files.decoder.model.norm.weight[3] = 70_000.0
    files.save()
    assert files.run("--dtype", "float16") == 2
    assert "model.norm.weight has values that are not finite" in capsys.readouterr().err
    assert files.run("--dtype", "bfloat16") == 0


def test_the_commands_of_the_page_can_be_given() -> None:
    page = (Path(__file__).parents[4] / "docs" / "importing.md").read_text("utf-8")
    commands = re.findall(r"(?:^\.venv.* |\| `)import (.*?)(?:`|$)", page, re.MULTILINE)
    assert len(commands) >= len(SUFFIXES) + 2
    for command in commands:
        call = build_parser().parse_args(shlex.split(command))
        assert (call.recipe is None) == carries_config(call.source)
        assert call.recipe in {None, "smollm2-135m-curriculum", *list_recipes()}
