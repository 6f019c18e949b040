from pathlib import Path

import pytest
from toys import publish_toy

from service.errors import UnknownModel
from service.models import naming
from service.models.catalog import Catalog
from service.models.naming import MAX_NAMES_IN_MESSAGE, candidates


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    for step, loss in ((1, 3.0), (2, 2.0), (3, 2.5)):
        publish_toy(tmp_path, "toy", step, metrics={"val_loss": loss})
    publish_toy(tmp_path, "other", 7, metrics={})
    publish_toy(tmp_path, "odd@name", 1)
    return Catalog(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("toy@1", ["toy@1"]),
        ("toy", ["toy@3", "toy@2", "toy@1"]),
        ("toy@latest", ["toy@3", "toy@2", "toy@1"]),
        ("toy@best", ["toy@2", "toy@3", "toy@1"]),
        ("latest", ["toy@3", "toy@2", "toy@1"]),
        ("best", ["toy@2", "toy@3", "toy@1"]),
        ("other", ["other@7"]),
        ("odd@name", ["odd@name@1"]),
        ("odd@name@1", ["odd@name@1"]),
        ("odd@name@latest", ["odd@name@1"]),
    ],
)
def test_a_name_means_steps_the_preferred_first(
    catalog: Catalog, name: str, expected: list[str]
) -> None:
    assert [step.name for step in candidates(catalog, name, "toy")] == expected


@pytest.mark.parametrize(
    "name",
    ["toy@9", "toy@01", "toy@", "toy@1@1", "nobody", "nobody@1", "", "@", "../toy@1", "toy/", ".",
     "other@best"],
)  # fmt: skip
def test_what_means_nothing_is_told_what_exists(catalog: Catalog, name: str) -> None:
    with pytest.raises(UnknownModel) as unknown:
        candidates(catalog, name, "toy")
    assert unknown.value.param == "model"
    assert repr(name) in unknown.value.message
    assert "there are " in unknown.value.message
    assert "@7" in unknown.value.message or "toy" in unknown.value.message.split("there are")[1]


def test_a_pruned_step_is_said_to_be_gone(catalog: Catalog) -> None:
    with pytest.raises(UnknownModel, match=r"no longer; of run toy there are toy@3, toy@2, toy@1"):
        candidates(catalog, "toy@9", "toy")


def test_many_names_are_not_all_listed(tmp_path: Path) -> None:
    for step in range(MAX_NAMES_IN_MESSAGE + 3):
        publish_toy(tmp_path, "toy", step)
    with pytest.raises(UnknownModel, match=r"toy@3 and 3 more$"):
        candidates(Catalog(tmp_path), "toy@99", "toy")


def test_an_empty_volume_has_no_names(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "nowhere")
    assert naming.names(catalog, None, lambda step: True) == {}
    with pytest.raises(UnknownModel, match="there are none yet"):
        candidates(catalog, "latest", None)


def test_every_name_is_listed_with_what_it_means(catalog: Catalog) -> None:
    meant = naming.names(catalog, "toy", lambda step: step.name != "toy@3")
    assert {name: step.name for name, step in meant.items()} == {
        "latest": "toy@2",
        "best": "toy@2",
        "toy": "toy@2",
        "toy@latest": "toy@2",
        "toy@best": "toy@2",
        "toy@1": "toy@1",
        "toy@2": "toy@2",
        "other": "other@7",
        "other@latest": "other@7",
        "other@7": "other@7",
        "odd@name": "odd@name@1",
        "odd@name@latest": "odd@name@1",
        "odd@name@best": "odd@name@1",
        "odd@name@1": "odd@name@1",
    }
