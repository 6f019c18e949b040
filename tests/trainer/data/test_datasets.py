from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from toy_run import toy_recipe
from toys import publish_toy, toy_tokenizer

from lm.volume import Step
from trainer.data import tokenizer_source
from trainer.data.datasets import TOKENIZER_REPLACED, Data, open_data, with_corpus
from trainer.recipe.schema import Recipe
from trainer.step.loss import IGNORED


def opened(recipe: Recipe, cache: Path, step: Step | None = None) -> tuple[Data, list[str]]:
    notes: list[str] = []
    data = open_data(recipe, step, cache, console=Console(file=StringIO()), note=notes.append)
    return data, notes


def test_micro_batches_and_held_out_batches_have_the_recipe_s_shapes(tmp_path: Path) -> None:
    data, notes = opened(toy_recipe(), tmp_path)
    inputs, targets = data.micro_batch(0)
    assert inputs.shape == targets.shape == (2, 16)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    held_out = list(data.validation(None))
    assert all(inputs.shape[1] == 16 for inputs, _ in held_out)
    assert data.token_bytes.shape == (data.tokenizer.vocab_size,)
    assert notes[0].startswith("math: 190 generated problems")
    assert data.flags == ()


def test_sources_share_a_partial_evaluation_evenly(tmp_path: Path) -> None:
    recipe = toy_recipe(
        "sources=[{name: a, corpus: math, max_bytes: 20000}, "
        "{name: b, corpus: code, max_bytes: 60000}]"
    )
    data, _ = opened(recipe, tmp_path)
    scored = sum(int((targets != IGNORED).sum()) for _, targets in data.validation(256))
    assert 224 <= scored <= 256
    assert sum(targets.numel() for _, targets in data.validation(None)) > 2_000


def test_a_step_s_own_tokenizer_is_taken(tmp_path: Path) -> None:
    step = publish_toy(tmp_path, "toy", 1)
    data, _ = opened(toy_recipe(), tmp_path / "cache", step)
    assert data.tokenizer.fingerprint == toy_tokenizer().fingerprint


def test_a_replaced_tokenizer_is_said_and_flagged_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object) -> Path:
        raise ValueError("no network")

    monkeypatch.setattr(tokenizer_source.hub, "download", offline)
    recipe = toy_recipe("tokenizer={source: 'hub:a/b', vocab_size: 300, offline_fallback: true}")
    data, notes = opened(recipe, tmp_path)
    assert data.flags == (TOKENIZER_REPLACED,)
    assert any("stands in for hub:a/b: no network" in note for note in notes)
    step = publish_toy(tmp_path, "toy", 1, flags=(TOKENIZER_REPLACED, "memorising"))
    assert opened(recipe, tmp_path / "cache", step)[0].flags == (TOKENIZER_REPLACED,)


def test_another_corpus_replaces_sources_and_stages(tmp_path: Path) -> None:
    text = tmp_path / "input.txt"
    recipe = toy_recipe("stages=[{name: s, first_step: 0, weights: {math: 1.0}}]")
    changed = with_corpus(recipe, f"file:{text}")
    assert [source.corpus for source in changed.sources] == [f"file:{text}"]
    assert changed.stages == ()
