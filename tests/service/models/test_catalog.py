import os
import shutil
from pathlib import Path
from typing import BinaryIO

import pytest
from toys import publish_toy
from toys.damage import VISIBLE, edit_manifest

from lm.volume import open_plain
from service.models.catalog import Catalog, checkpoint_of, identity


def numbers(catalog: Catalog) -> list[int]:
    return [step.number for step in catalog.survey("toy").steps]


def test_a_manifest_is_read_again_only_when_it_has_changed(tmp_path: Path) -> None:
    opened: list[str] = []

    def counting(path: Path) -> BinaryIO:
        opened.append(path.parent.name)
        return open_plain(path)

    step = publish_toy(tmp_path, "toy", 1)
    publish_toy(tmp_path, "toy", 2)
    catalog = Catalog(tmp_path, counting)
    for _ in range(3):
        assert numbers(catalog) == [1, 2]
    assert opened == ["step-00000001", "step-00000002"]
    edit_manifest(step.path, lambda values: values["details"]["metrics"].update(val_loss=0.5))
    steps = catalog.survey("toy").steps
    assert steps[0].manifest.details.metrics["val_loss"] == 0.5
    assert len(opened) == 3
    shutil.rmtree(step.path)
    assert numbers(catalog) == [2]
    assert catalog._looks["toy"].seen.keys() == {2}


@pytest.mark.parametrize("kind", VISIBLE)
def test_what_is_not_whole_is_said(tmp_path: Path, kind: str) -> None:
    publish_toy(tmp_path, "toy", 1)
    damage, error = VISIBLE[kind]
    damage(publish_toy(tmp_path, "toy", 2).path)
    survey = Catalog(tmp_path).survey("toy")
    assert [step.number for step in survey.steps] == [1]
    assert survey.numbers == {1, 2}
    if kind in ("missing manifest", "empty directory"):
        assert survey.unfinished.keys() == {2}
    else:
        assert type(survey.broken[2]) is error


def test_runs_that_lead_out_of_the_volume_are_none(tmp_path: Path) -> None:
    publish_toy(tmp_path / "elsewhere", "outside", 1)
    publish_toy(tmp_path / "volume", "toy", 1)
    (tmp_path / "volume" / "outside").symlink_to(tmp_path / "elsewhere" / "outside")
    (tmp_path / "volume" / "alias").symlink_to("toy")
    assert Catalog(tmp_path / "volume").runs() == ["alias", "toy"]


def test_a_problem_is_what_the_system_says(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "volume")
    assert catalog.problem(None) == "volume: No such file or directory"
    publish_toy(tmp_path / "volume", "toy", 1)
    assert catalog.problem(None) is None
    assert catalog.problem("toy") is None
    assert catalog.problem("other") == "other: No such file or directory"


def test_a_checkpoint_is_held_while_its_very_bytes_are_there(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(publish_toy(tmp_path, "toy", 1))
    catalog = Catalog(tmp_path)
    assert catalog.holds(checkpoint)
    shutil.rmtree(tmp_path / "toy" / "step-00000001")
    assert not catalog.holds(checkpoint)
    publish_toy(tmp_path, "toy", 1, seed=5)
    assert not catalog.holds(checkpoint)


def test_a_step_changes_with_size_time_or_manifest(tmp_path: Path) -> None:
    step = publish_toy(tmp_path, "toy", 1)
    before = identity(step)
    assert identity(step) == before
    copied = shutil.copytree(step.path, tmp_path / "copy")
    shutil.rmtree(step.path)
    shutil.move(copied, step.path)
    assert identity(step) == before, "other inodes, as after a mount"
    os.utime(step.path / "config.json", (1, 1))
    assert identity(step) != before
