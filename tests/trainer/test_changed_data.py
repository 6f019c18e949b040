"""What a run was trained on has to be there again when it is resumed."""

from pathlib import Path

import pytest
from toy_run import toy_recipe, train_toy
from toys import publish_toy, toy_tokenizer

from trainer.amendment import Amendment
from trainer.config import Recipe
from trainer.data import with_corpus
from trainer.loop import Ending

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
