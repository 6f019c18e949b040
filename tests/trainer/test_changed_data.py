"""What a run was trained on has to be there again when it is resumed."""

import hashlib
import json
from pathlib import Path

import pytest
from toy_run import toy_recipe, train_toy
from toys import publish_toy, toy_tokenizer

from trainer.data.datasets import with_corpus
from trainer.recipe.changes import Amendment
from trainer.recipe.schema import Recipe
from trainer.run.loop import Ending

ACCEPT = Amendment(accept_data=True)


def corpus(path: Path, word: str = "be") -> Path:
    path.write_text(f"to {word} or not to be\n" * 80)
    return path


def recipe(path: Path, *overrides: str) -> Recipe:
    return with_corpus(toy_recipe(*overrides), f"file:{path}")


def test_a_corpus_that_changed_is_refused_by_name_and_accepted_if_asked(tmp_path: Path) -> None:
    path = corpus(tmp_path / "own.txt")
    train_toy(tmp_path, recipe(path), last_step=1)
    train_toy(tmp_path, recipe(path), last_step=2)
    corpus(path, "do")
    with pytest.raises(ValueError, match=r"source 'file' \(file:.*own\.txt\): changed since"):
        train_toy(tmp_path, recipe(path))
    train_toy(tmp_path, recipe(path), last_step=3, amendment=ACCEPT)
    log = (tmp_path / "toy" / "training.log").read_text()
    assert "accepted although it changed in mid-run: source 'file'" in log
    assert train_toy(tmp_path, recipe(path), last_step=4) is Ending.LIMIT
    corpus(path)
    with pytest.raises(ValueError, match="changed since the run was saved"):
        train_toy(tmp_path, recipe(path))


def test_a_recipe_forced_to_another_source_is_no_changed_corpus(tmp_path: Path) -> None:
    train_toy(tmp_path, recipe(corpus(tmp_path / "a.txt")), last_step=1)
    other = recipe(corpus(tmp_path / "b.txt", "do"))
    forced = Amendment(force_recipe=True)
    assert train_toy(tmp_path, other, last_step=2, amendment=forced) is Ending.LIMIT


def test_a_forced_change_of_one_source_accepts_no_changed_text_of_another(tmp_path: Path) -> None:
    paths = {name: corpus(tmp_path / f"{name}.txt") for name in ("a", "b")}

    def both(**more: float) -> Recipe:
        sources = [{"name": one, "corpus": f"file:{path}"} for one, path in paths.items()]
        sources[0] |= more  # type: ignore[arg-type]
        return Recipe.from_dict(toy_recipe().to_dict() | {"sources": sources, "stages": []})

    forced = Amendment(force_recipe=True)
    train_toy(tmp_path, both(), last_step=1)
    corpus(paths["b"], "do")
    with pytest.raises(ValueError, match=r"^source 'b' \(file:.*b\.txt\): changed since"):
        train_toy(tmp_path, both(validation_fraction=0.3), last_step=2, amendment=forced)
    corpus(paths["b"])
    changed = both(validation_fraction=0.3)
    assert train_toy(tmp_path, changed, last_step=2, amendment=forced) is Ending.LIMIT


def test_a_run_from_before_line_ends_were_changed_does_not_go_on_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_bytes(b"to be or not to be\r\n" * 80)
    train_toy(tmp_path, recipe(path), last_step=1)
    train_toy(tmp_path, recipe(path), last_step=2)
    _forget_hashes(tmp_path / "toy")
    with pytest.raises(ValueError, match=r"source 'file' \(file:.*own\.txt\): changed since"):
        train_toy(tmp_path, recipe(path), last_step=3)
    kept = recipe(path)
    sources = [one.model_copy(update={"keep_line_ends": True}) for one in kept.sources]
    kept = kept.model_copy(update={"sources": tuple(sources)})
    forced = Amendment(force_recipe=True)
    assert train_toy(tmp_path, kept, last_step=3, amendment=forced) is Ending.LIMIT


def test_a_run_without_hashes_over_plain_line_ends_goes_on(tmp_path: Path) -> None:
    path = corpus(tmp_path / "own.txt")
    train_toy(tmp_path, recipe(path), last_step=1)
    _forget_hashes(tmp_path / "toy")
    assert train_toy(tmp_path, recipe(path), last_step=2) is Ending.LIMIT


def _forget_hashes(run: Path) -> None:
    """Make the newest step one from before texts were hashed."""
    step = max(run.glob("step-*"))
    state = next(step.glob("training_state*.json"))
    state.write_text(json.dumps(json.loads(state.read_text()) | {"data": {}}))
    manifest = json.loads((step / "manifest.json").read_text())
    content = state.read_bytes()
    manifest["files"][state.name] |= {
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (step / "manifest.json").write_text(json.dumps(manifest))


def test_a_tokenizer_at_a_path_that_changed_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer"
    file.mkdir()
    toy_tokenizer().save(file)
    asked = recipe(
        corpus(tmp_path / "own.txt"), f"tokenizer.source={file}", "tokenizer.vocab_size=1024"
    )
    train_toy(tmp_path, asked, last_step=1)
    content = (file / "tokenizer_config.json").read_text()
    (file / "tokenizer_config.json").write_text(content.replace("<|endoftext|>", "to"))
    with pytest.raises(ValueError, match=r"tokenizer /.*/tokenizer: changed since"):
        train_toy(tmp_path, asked)
    assert train_toy(tmp_path, asked, last_step=2, amendment=ACCEPT) is Ending.LIMIT
    (file / "tokenizer.json").unlink()  # the run has its own copy
    assert train_toy(tmp_path, asked, last_step=3, amendment=ACCEPT) is Ending.LIMIT


def test_the_weights_own_tokenizer_in_place_of_the_recipes_is_said(tmp_path: Path) -> None:
    publish_toy(tmp_path, "toy", 0, config=toy_recipe().model)
    train_toy(tmp_path, last_step=1)
    log = (tmp_path / "toy" / "training.log").read_text()
    assert "tokenizer: that of toy@0, not the recipe's 'train'" in log
