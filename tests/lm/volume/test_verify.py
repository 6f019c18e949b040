import os
import shutil
from pathlib import Path
from typing import BinaryIO

import pytest
from toys import publish_toy, toy_training_state
from toys.damage import HIDDEN, VISIBLE, Damage, edit_manifest, flip_byte

from lm.volume import (
    Retention,
    Step,
    StepDamaged,
    StepUnreadable,
    StepVanished,
    UnknownFormat,
    VolumeError,
    newest_sound_step,
    open_plain,
    prune,
    verify,
)
from lm.volume.read import read_step


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps to copy: syncing every file of every test's own would take long."""
    volume, state = tmp_path_factory.mktemp("published"), toy_training_state()
    publish_toy(volume, "run", 1)
    publish_toy(volume, "run", 2, extra_files=state, resumable=True)
    return volume


@pytest.fixture
def step(tmp_path: Path, published: Path) -> Step:
    volume = shutil.copytree(published, tmp_path / "volume")
    return read_step(volume / "run" / "step-00000002")


def test_a_fresh_step_verifies(step: Step) -> None:
    verify(step)
    verify(step, hashes=False)
    assert read_step(step.path) == step


@pytest.mark.parametrize(
    ("damage", "error"), (VISIBLE | HIDDEN).values(), ids=list(VISIBLE | HIDDEN)
)
def test_every_damage_is_found(step: Step, damage: Damage, error: type[VolumeError]) -> None:
    damage(step.path)
    with pytest.raises(VolumeError, match="step-00000002") as raised:
        verify(step)
    assert type(raised.value) is error


@pytest.mark.parametrize("damage", [damage for damage, _ in VISIBLE.values()], ids=VISIBLE)
def test_all_but_changed_bytes_is_found_without_hashes(step: Step, damage: Damage) -> None:
    damage(step.path)
    with pytest.raises(VolumeError):
        verify(step, hashes=False)


@pytest.mark.parametrize("damage", [damage for damage, _ in HIDDEN.values()], ids=HIDDEN)
def test_changed_bytes_need_hashes(step: Step, damage: Damage) -> None:
    damage(step.path)
    verify(step, hashes=False)
    with pytest.raises(StepDamaged):
        verify(step, hashes=True)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "training_state.json"]
)
def test_every_byte_of_every_file_counts(step: Step, name: str) -> None:
    content = (step.path / name).read_bytes()
    for position in (0, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[position] ^= 0x20
        (step.path / name).write_bytes(changed)
        with pytest.raises(StepDamaged, match=rf"{name}: SHA-256 differs"):
            verify(step)
    (step.path / name).write_bytes(content)
    verify(step)


def test_a_manifest_that_changed_since_it_was_read_is_noticed(step: Step) -> None:
    edit_manifest(step.path, lambda values: values["details"].update(recipe_hash="another"))
    with pytest.raises(StepDamaged, match="the manifest changed"):
        verify(step, hashes=False)


def test_a_step_that_is_gone_has_vanished(step: Step) -> None:
    step.path.rename(step.path.with_name(".trash-step-00000002-1"))
    with pytest.raises(StepVanished):
        verify(step)


def test_a_step_that_goes_while_it_is_hashed_has_vanished(step: Step) -> None:
    opened: list[str] = []

    def open_then_prune(path: Path) -> BinaryIO:
        opened.append(path.name)
        if len(opened) == 2:
            step.path.rename(step.path.with_name(".trash-step-00000002-1"))
        return open_plain(path)

    with pytest.raises(StepVanished):
        verify(step, open_file=open_then_prune)
    assert len(opened) == 2


def test_a_file_that_cannot_be_read_is_said(step: Step) -> None:
    def refuse(path: Path) -> BinaryIO:
        if path.name == "model.safetensors":
            raise PermissionError(13, os.strerror(13), str(path))
        return open_plain(path)

    with pytest.raises(StepUnreadable, match=r"model\.safetensors: Permission denied"):
        verify(step, open_file=refuse)


def test_a_step_that_becomes_a_milestone_after_it_was_read_still_verifies(step: Step) -> None:
    milestone = Retention(keep_last=2, keep_steps=(2,))
    publish_toy(step.path.parents[1], "run", 3)
    publish_toy(step.path.parents[1], "run", 4)
    prune(step.path.parent, milestone)
    assert not (step.path / "training_state.json").exists()
    verify(step)


def test_a_step_that_becomes_a_milestone_while_it_is_hashed_still_verifies(step: Step) -> None:
    publish_toy(step.path.parents[1], "run", 3)
    publish_toy(step.path.parents[1], "run", 4)
    pruned = []

    def prune_then_open(path: Path) -> BinaryIO:
        if path.name == "tokenizer.json" and not pruned:
            pruned.append(prune(step.path.parent, Retention(keep_last=2, keep_steps=(2,))))
        return open_plain(path)

    verify(step, open_file=prune_then_open)
    assert pruned == [[1]]
    assert not (step.path / "training_state.json").exists()


SIGHT = {name: case for name, case in (VISIBLE | HIDDEN).items() if case[1] is not UnknownFormat}


@pytest.mark.parametrize("damage", [case[0] for case in SIGHT.values()], ids=SIGHT)
def test_a_writer_passes_over_a_damaged_step_and_says_why(damage: Damage, step: Step) -> None:
    damage(step.path)
    told: list[StepDamaged] = []
    sound = newest_sound_step(step.path.parent, on_damage=told.append)
    assert sound is not None
    assert sound.number == 1
    assert [step.path.name in str(error) for error in told] == [True]


def test_the_newest_step_is_sound_where_nothing_happened(step: Step) -> None:
    assert newest_sound_step(step.path.parent) == step
    assert newest_sound_step(step.path.parent / "nothing") is None


def test_a_run_that_has_lost_all_of_its_steps_is_not_begun_anew(step: Step) -> None:
    for path in step.path.parent.glob("step-*"):
        flip_byte(path)
    with pytest.raises(StepDamaged, match=r"no step of .*run is sound \(.*SHA-256 differs"):
        newest_sound_step(step.path.parent)


def test_a_step_of_an_unknown_format_is_not_passed_over(step: Step) -> None:
    edit_manifest(step.path, lambda values: values.update(format_version=2))
    with pytest.raises(UnknownFormat):
        newest_sound_step(step.path.parent)
