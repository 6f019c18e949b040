from pathlib import Path

import pytest

from lm.huggingface import hub
from lm.text.tokenizer import Tokenizer
from trainer.data.tokenizer_source import resolve_tokenizer
from trainer.data.tokenizer_training import train_tokenizer
from trainer.recipe.sections import TokenizerConfig

TEXTS = ["a rose by any other name would smell as sweet\n"] * 9


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    train_tokenizer(["something else entirely"], 280).save(tmp_path)
    return tmp_path


def resolve(config: TokenizerConfig, weights_dir: Path | None = None) -> tuple[Tokenizer, str]:
    reasons: list[str] = []
    tokenizer = resolve_tokenizer(
        config, TEXTS, weights_dir=weights_dir, on_fallback=reasons.append
    )
    return tokenizer, "".join(reasons)


def refuse(source: str, patterns: object) -> Path:
    raise ValueError(f"{source} cannot be had (no network)")


def test_train_learns_from_the_training_text_alone() -> None:
    tokenizer, _ = resolve(TokenizerConfig(vocab_size=270))
    assert tokenizer.fingerprint == train_tokenizer(TEXTS, 270).fingerprint


@pytest.mark.parametrize("name", ["", "tokenizer.json"])
def test_a_path_is_a_directory_or_the_file_in_it(saved: Path, name: str) -> None:
    tokenizer, _ = resolve(TokenizerConfig(source=str(saved / name)))
    assert tokenizer.fingerprint == Tokenizer.load(saved).fingerprint


def test_weights_means_the_imported_step(saved: Path) -> None:
    tokenizer, _ = resolve(TokenizerConfig(source="weights"), saved)
    assert tokenizer.fingerprint == Tokenizer.load(saved).fingerprint
    with pytest.raises(ValueError, match="'weights' needs imported weights"):
        resolve(TokenizerConfig(source="weights"))


def test_a_hub_tokenizer_is_downloaded(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    monkeypatch.setattr(hub, "download", lambda source, patterns: saved)
    tokenizer, reason = resolve(TokenizerConfig(source="hub:owner/name"))
    assert tokenizer.fingerprint == Tokenizer.load(saved).fingerprint
    assert not reason


def test_offline_a_hub_tokenizer_is_replaced_only_when_the_recipe_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "download", refuse)
    with pytest.raises(ValueError, match=r"hub:owner/name cannot be had \(no network\)"):
        resolve(TokenizerConfig(source="hub:owner/name"))
    config = TokenizerConfig(source="hub:owner/name", offline_fallback=True, vocab_size=270)
    tokenizer, reason = resolve(config)
    assert tokenizer.fingerprint == train_tokenizer(TEXTS, 270).fingerprint
    assert reason.startswith("a tokenizer trained here stands in for hub:owner/name")
