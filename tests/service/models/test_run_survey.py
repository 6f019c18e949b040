import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest
from toys import publish_toy
from toys.damage import edit_manifest, truncate

from lm.volume import Step, open_plain, step_name
from service.models import run_survey as survey
from service.models.catalog import Catalog
from service.models.run_survey import Look, look


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A run of 30 steps that share their files."""
    step = publish_toy(tmp_path, "toy", 1)
    for number in range(2, 31):
        path = step.path.with_name(step_name(number))
        shutil.copytree(step.path, path, copy_function=os.link)
        (path / "manifest.json").unlink()
        shutil.copy(step.path / "manifest.json", path)
        edit_manifest(path, lambda values, number=number: values.update(step=number))
    return step.path.parent


def numbers(steps: tuple[Step, ...]) -> list[int]:
    return [step.number for step in steps]


def test_looks_agree_with_first_looks_whatever_happens(
    many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look reads everything: it is the reference of all that build on another."""
    monkeypatch.setattr(survey, "NEWEST", 4)
    monkeypatch.setattr(survey, "LOOKS_FOR_ALL", 5)
    events = [
        lambda: None,
        lambda: shutil.rmtree(many / step_name(3)),
        lambda: edit_manifest(many / step_name(29), lambda v: v.update(step=77)),
        (many / step_name(12) / "manifest.json").unlink,
        lambda: edit_manifest(many / step_name(7), lambda v: v.update(run="another")),
        lambda: edit_manifest(many / step_name(7), lambda v: v.update(run="toy")),
        (many / step_name(40)).mkdir,
        lambda: (many / step_name(30)).rename(many / ".trash-30"),
        lambda: (many / ".trash-30").rename(many / step_name(30)),
        lambda: edit_manifest(many / step_name(2), lambda v: v.update(format_version=2)),
    ]
    now = Look()
    for happens in events:
        happens()
        for _ in range(survey.LOOKS_FOR_ALL + 1):
            now = look(many, now, open_plain)
        fresh = look(many, Look(), open_plain).survey
        assert now.survey.steps == fresh.steps
        assert now.survey.unfinished == fresh.unfinished
        assert {n: str(e) for n, e in now.survey.broken.items()} == {
            n: str(e) for n, e in fresh.broken.items()
        }
        assert now.survey.numbers == fresh.numbers
        assert now.survey.fingerprints == {step.manifest.fingerprint for step in fresh.steps}


def test_where_nothing_changes_a_look_compares_a_few_and_gives_the_same_survey(
    many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "NEWEST", 4)
    monkeypatch.setattr(survey, "LOOKS_FOR_ALL", 10)
    opened, stamped = [], []
    stamp_of = survey.stamp_of

    def open_file(path: Path) -> BinaryIO:
        opened.append(path)
        return open_plain(path)

    def stamp(path: Path | str) -> survey.Stamp | None:
        stamped.append(path)
        return stamp_of(path)

    monkeypatch.setattr(survey, "stamp_of", stamp)
    first = look(many, Look(), open_file)
    assert (len(opened), len(stamped)) == (30, 30)
    second = look(many, first, open_file)
    assert second.survey is first.survey
    assert (len(opened), len(stamped)) == (30, 30 + 4 + 3)


def test_a_newest_steps_change_is_seen_at_once(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "NEWEST", 2)
    before = look(many, Look(), open_plain)
    truncate(many / step_name(30))
    edit_manifest(many / step_name(30), lambda values: values.update(created_at="2026-01-01"))
    now = look(many, before, open_plain)
    assert numbers(now.survey.steps) == list(range(1, 30))
    assert now.survey.broken.keys() == {30}


def test_a_run_that_cannot_be_listed_hides_no_other_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one without permission, or on a mount that has died."""
    for run in ("closed", "toy"):
        publish_toy(tmp_path, run, 1)
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    for name in ("listdir", "scandir"):
        function = getattr(os, name)

        def fail(path: str | Path, function=function) -> object:
            if str(path).endswith("closed"):
                raise refused
            return function(path)

        monkeypatch.setattr(os, name, fail)
    catalog = Catalog(tmp_path)
    assert catalog.newest_run() == "toy"
    assert [run for run, _ in catalog.surveys()] == ["toy"]
    assert catalog.left_out() == {"closed": "closed: Permission denied"}


def test_routes_may_look_while_the_watcher_does(many: Path) -> None:
    """A look replaces what is known of its run: nothing is iterated while it changes."""

    catalog = Catalog(many.parent)

    def many_looks(run: str) -> None:
        for _ in range(100):
            catalog.survey(run)
            if run == "toy":
                edit_manifest(many / step_name(30), lambda v: v["details"].update(recipe_hash="a"))

    for index in range(3):
        publish_toy(many.parent, f"other{index}", 1)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(many_looks, ["toy", "other0", "other1", "other2"]))
    assert len(catalog.survey("toy").steps) == 30
