import pytest

from trainer.data.corpora import CORPORA, open_corpus
from trainer.data.corpora.split import num_bytes
from trainer.recipe.sections import SourceConfig


@pytest.mark.parametrize("kind", ["code", "math", "shakespeare"])
def test_every_corpus_obeys_its_limit_and_has_both_parts(kind: str) -> None:
    plays = ("hamlet",) if kind == "shakespeare" else ()
    source = SourceConfig(name="s", corpus=kind, validation_plays=plays, max_bytes=100_000)
    split = open_corpus(source)
    assert 50_000 < num_bytes(split.train + split.validation) <= 100_000
    assert "".join(split.train).strip()
    assert "".join(split.validation).strip()
    assert "\n" not in split.description


def test_a_limit_that_leaves_nothing_to_hold_out_is_refused() -> None:
    source = SourceConfig(name="s", corpus="code", max_bytes=1)
    with pytest.raises(ValueError, match=r"source 's' \(code\): no training text"):
        open_corpus(source)


def test_an_unknown_corpus_is_refused_with_those_there_are() -> None:
    source = SourceConfig.model_construct(name="s", corpus="poems", max_bytes=None)
    with pytest.raises(ValueError, match="unknown corpus 'poems'; one of shakespeare, code, math"):
        open_corpus(source)


def test_the_table_of_corpora_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        CORPORA["mine"] = open_corpus  # type: ignore[index]
