import errno
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from toys import publish_toy
from toys.damage import HIDDEN, VISIBLE, Damage, edit_manifest

from lm.volume import (
    Step,
    StepDamaged,
    StepUnreadable,
    StepVanished,
    VolumeError,
    best_step,
    list_runs,
    list_steps,
    load_model_config,
    load_weights,
    newest_step,
    open_step,
    prune,
    verify,
)
from lm.volume.read import read_step, step_paths
from lm.volume.retention import Retention

visible = pytest.mark.parametrize(("damage", "error"), VISIBLE.values(), ids=VISIBLE)


def publish_steps(tmp_path: Path, *steps: int) -> Path:
    for step in steps:
        publish_toy(tmp_path / "volume", "run", step, seed=step)
    return tmp_path / "volume" / "run"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps to copy: syncing every file of every test's own would take a minute."""
    return publish_steps(tmp_path_factory.mktemp("published"), 1, 2, 3)


@pytest.fixture
def run_dir(tmp_path: Path, published: Path) -> Path:
    return shutil.copytree(published, tmp_path / "volume" / "run")


def numbers(steps: list[Step]) -> list[int]:
    return [step.number for step in steps]


def test_steps_are_listed_in_order_of_their_numbers_not_of_their_writing(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 20, 5, 100)
    assert numbers(list_steps(run_dir)) == [5, 20, 100]
    assert read_step(run_dir / "step-00000100") == newest_step(run_dir)


@visible
def test_a_broken_step_has_its_error_and_its_place(
    run_dir: Path, damage: Damage, error: type[VolumeError]
) -> None:
    damage(run_dir / "step-00000002")
    with pytest.raises(VolumeError, match="step-00000002") as raised:
        read_step(run_dir / "step-00000002")
    assert type(raised.value) is error


@visible
def test_a_broken_step_is_skipped(run_dir: Path, damage: Damage, error: type[VolumeError]) -> None:
    damage(run_dir / "step-00000003")
    assert numbers(list_steps(run_dir)) == [1, 2]
    assert newest_step(run_dir).number == 2
    assert open_step(run_dir, lambda step: step.number) == 2


@visible
def test_a_broken_step_between_good_ones_hides_none(
    run_dir: Path, damage: Damage, error: type[VolumeError]
) -> None:
    damage(run_dir / "step-00000002")
    assert numbers(list_steps(run_dir)) == [1, 3]
    assert newest_step(run_dir).number == 3


@pytest.mark.parametrize("damage", [damage for damage, _ in HIDDEN.values()], ids=HIDDEN)
def test_listing_reads_no_weights_and_leaves_hashes_to_verify(
    tmp_path: Path, damage: Damage
) -> None:
    run_dir = publish_steps(tmp_path, 1)
    damage(run_dir / "step-00000001")
    step = newest_step(run_dir)
    assert step.number == 1
    with pytest.raises(StepDamaged):
        verify(step)


def test_a_step_that_is_not_there_has_vanished(tmp_path: Path) -> None:
    with pytest.raises(StepVanished, match="step-00000009: no such step"):
        read_step(tmp_path / "step-00000009")


def test_a_step_that_is_pruned_while_its_manifest_is_read_has_vanished(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 1)

    def then_prune(path: Path) -> BinaryIO:
        content = io.BytesIO(path.read_bytes())
        path.parent.rename(run_dir / ".trash-step-00000001-1")
        return content

    with pytest.raises(StepVanished):
        read_step(run_dir / "step-00000001", open_file=then_prune)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_disk_that_fails_is_not_the_steps_fault(tmp_path: Path, number: int) -> None:
    run_dir = publish_steps(tmp_path, 1)

    def fail(path: Path) -> BinaryIO:
        raise OSError(number, os.strerror(number), str(path))

    with pytest.raises(StepUnreadable, match=os.strerror(number)):
        read_step(run_dir / "step-00000001", open_file=fail)
    assert read_step(run_dir / "step-00000001").number == 1


def test_a_step_that_is_a_link_out_of_the_volume_is_damage(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path / "volume", 1)
    outside = tmp_path / "run" / "step-00000002"
    shutil.copytree(run_dir / "step-00000001", outside)
    edit_manifest(outside, lambda values: values.update(step=2))
    assert read_step(outside).number == 2
    (run_dir / outside.name).symlink_to(outside)
    with pytest.raises(StepDamaged, match="a link, not a directory"):
        read_step(run_dir / outside.name)
    assert [step.number for step in list_steps(run_dir)] == [1]


def test_where_there_is_nothing_yet_nothing_is_found(tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path):
        assert list_runs(place) == []
        assert list_steps(place) == []
        assert newest_step(place) is None
        assert open_step(place, lambda step: step.number) is None


def test_runs_are_directories_that_are_not_hidden(tmp_path: Path) -> None:
    publish_toy(tmp_path, "zebra", 1)
    publish_toy(tmp_path, "ant", 1)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README").write_text("not a run")
    assert list_runs(tmp_path) == ["ant", "zebra"]


def test_a_step_knows_how_clients_name_it(tmp_path: Path) -> None:
    step = publish_toy(tmp_path, "tiny", 500)
    assert (step.number, step.name) == (500, "tiny@500")


def test_what_is_hidden_or_named_otherwise_is_none_of_a_readers_business(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 1)
    for name in (
        ".tmp-step-00000002-1",
        ".trash-step-00000003-1",
        ".bad-step-00000004-0",
        "step-5",
    ):
        (run_dir / name).mkdir()
    (run_dir / "metrics.jsonl").write_text("{}")
    (run_dir / "step-00000006").write_text("a file")
    assert [path.name for path in step_paths(run_dir)] == ["step-00000001", "step-00000006"]
    assert numbers(list_steps(run_dir)) == [1]


def test_a_step_without_any_rename_is_complete_once_its_manifest_is_there(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 1)
    copied = tmp_path / "bucket" / "run" / "step-00000001"
    copied.mkdir(parents=True)
    files = sorted((run_dir / "step-00000001").iterdir(), key=lambda f: f.name == "manifest.json")
    for file in files:
        assert list_steps(copied.parent) == []
        (copied / file.name).write_bytes(file.read_bytes())
    assert numbers(list_steps(copied.parent)) == [1]


def test_an_extra_file_beside_those_of_the_manifest_harms_nothing(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 1)
    (run_dir / "step-00000001" / ".nfs0001").write_text("")
    step = newest_step(run_dir)
    assert step is not None
    assert ".nfs0001" not in step.manifest.files
    verify(step)


def test_open_step_loads_the_newest(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 1, 2)
    assert open_step(run_dir, lambda step: step.name) == "run@2"


def test_a_step_that_vanishes_while_it_is_opened_is_retried_on_the_newest(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 1)
    tried: list[int] = []

    def load_slowly(step: Step) -> int:
        tried.append(step.number)
        if step.number == 1:
            publish_steps(tmp_path, 2, 3)
            prune(run_dir, Retention(keep_last=2))
        load_weights(step)
        return step.number

    assert open_step(run_dir, load_slowly) == 3
    assert tried == [1, 3]


@pytest.mark.parametrize("load", [load_weights, load_model_config, verify])
def test_whatever_opens_a_pruned_step_says_that_it_vanished(
    tmp_path: Path, load: Callable[[Step], object]
) -> None:
    run_dir = publish_steps(tmp_path, 1)
    step = newest_step(run_dir)
    publish_steps(tmp_path, 2, 3)
    prune(run_dir, Retention(keep_last=2))
    with pytest.raises(StepVanished):
        load(step)


def test_open_step_gives_up_after_its_attempts(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 1)
    tried: list[Step] = []

    def vanish(step: Step) -> None:
        tried.append(step)
        raise StepVanished("again")

    with pytest.raises(StepVanished, match="again"):
        open_step(run_dir, vanish, attempts=4)
    assert len(tried) == 4


def test_open_step_retries_nothing_but_vanishing(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 1)
    tried: list[Step] = []

    def refuse(step: Step) -> None:
        tried.append(step)
        raise StepDamaged("bad weights")

    with pytest.raises(StepDamaged):
        open_step(run_dir, refuse)
    assert len(tried) == 1


def test_readers_leave_no_trace(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 1, 2)

    def trace() -> dict[str, tuple[int, int]]:
        return {
            str(Path(parent, name)): (status.st_mtime_ns, status.st_size)
            for parent, directories, files in os.walk(tmp_path)
            for name in (*directories, *files)
            for status in [Path(parent, name).stat()]
        }

    before = trace()
    list_runs(run_dir.parent)
    list_steps(run_dir)
    open_step(run_dir, load_weights)
    verify(newest_step(run_dir))
    assert trace() == before


def test_the_best_step_is_the_one_with_the_lowest_measured_loss(tmp_path: Path) -> None:
    assert best_step(tmp_path / "run") is None
    for step, metrics in enumerate([{}, {"val_loss": 2.5}, {"val_loss": 2.0}, {"train_loss": 1.0}]):
        publish_toy(tmp_path, "run", step, metrics=metrics)
    best = best_step(tmp_path / "run")
    assert best is not None
    assert best.number == 2
