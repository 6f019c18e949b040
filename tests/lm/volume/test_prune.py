import os
from pathlib import Path

import pytest
from toys import publish_toy, toy_training_state
from toys.damage import flip_byte, truncate

from lm.volume import (
    Retention,
    Step,
    StepUnreadable,
    list_steps,
    load_weights,
    newest_step,
    prune,
    read,
    sweep,
    verify,
)
from lm.volume.read import read_step


def publish_steps(volume: Path, *numbers: int) -> Path:
    for number in numbers:
        publish_toy(
            volume, "run", number, seed=number, extra_files=toy_training_state(), resumable=True
        )
    return volume / "run"


def numbers(steps: list[Step]) -> list[int]:
    return [step.number for step in steps]


def resumable(run_dir: Path) -> list[int]:
    return [step.number for step in list_steps(run_dir) if step.manifest.details.resumable]


def test_the_newest_steps_and_the_best_stay(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 1, 3)
    extra = toy_training_state()
    publish_toy(tmp_path, "run", 2, extra_files=extra, resumable=True, metrics={"val_loss": 0.5})
    publish_steps(tmp_path, 4, 5)
    assert prune(run_dir, Retention(keep_last=2), keep_best=True) == [1, 3]
    assert numbers(list_steps(run_dir)) == resumable(run_dir) == [2, 4, 5]
    for step in list_steps(run_dir):
        verify(step)


def test_what_goes_goes_without_remains(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 1, 2, 3)
    prune(run_dir, Retention(keep_last=2))
    assert {path.name for path in run_dir.iterdir()} == {".lock", "step-00000002", "step-00000003"}


def test_a_run_whose_loss_was_never_measured_keeps_the_newest_alone(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        publish_toy(tmp_path, "run", number, metrics={})
    assert prune(tmp_path / "run", Retention(keep_last=2), keep_best=True) == [1]


def test_a_best_step_that_cannot_be_read_just_now_is_not_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails for a moment between two looks would otherwise cost the best step."""
    run_dir = publish_steps(tmp_path, 3, 4, 5)
    best = publish_toy(tmp_path, "run", 1, metrics={"val_loss": 0.5})
    publish_toy(tmp_path, "run", 2, metrics={"val_loss": 0.6})
    fails = [True]

    def read_badly(path: Path) -> Step:
        if path == best.path and fails:
            fails.pop()
            raise StepUnreadable("EIO")
        return read_step(path)

    monkeypatch.setattr(read, "read_step", read_badly)
    assert prune(run_dir, Retention(keep_last=2), keep_best=True) == [3]
    assert prune(run_dir, Retention(keep_last=2), keep_best=True) == [2]
    assert numbers(list_steps(run_dir)) == [1, 4, 5]


def test_pruning_again_does_nothing(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 1, 2, 3)
    retention = Retention(keep_last=2, keep_every=1)
    prune(run_dir, retention)
    manifest = (run_dir / "step-00000001" / "manifest.json").stat().st_mtime_ns
    assert prune(run_dir, retention) == []
    assert (run_dir / "step-00000001" / "manifest.json").stat().st_mtime_ns == manifest


def test_a_milestone_keeps_its_weights_and_its_fingerprint_alone(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 10, 11, 12, 13)
    whole = read_step(run_dir / "step-00000010")
    assert prune(run_dir, Retention(keep_last=2, keep_every=10)) == [11]
    reduced = read_step(run_dir / "step-00000010")
    verify(reduced)
    assert resumable(run_dir) == [12, 13]
    assert reduced.manifest.fingerprint == whole.manifest.fingerprint
    assert reduced.manifest.details.metrics == whole.manifest.details.metrics
    names = {path.name for path in reduced.path.iterdir()}
    assert names == {*whole.manifest.files, "manifest.json"} - {"training_state.json"}
    assert load_weights(reduced).keys() == load_weights(whole).keys()


def test_a_milestones_manifest_is_readable_by_every_user(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        run_dir = publish_steps(tmp_path, 10, 11, 12)
        prune(run_dir, Retention(keep_last=2, keep_every=10))
    finally:
        os.umask(before)
    assert (run_dir / "step-00000010" / "manifest.json").stat().st_mode & 0o777 == 0o644


def test_a_step_counts_as_complete_at_every_moment_of_its_reduction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = publish_steps(tmp_path, 10, 11, 12)
    looks: list[list[int]] = []
    replace, unlink = Path.replace, Path.unlink

    def look_then(act):  # type: ignore[no-untyped-def]
        def acting(path: Path, *arguments: object, **options: object) -> object:
            looks.append(numbers(list_steps(run_dir)))
            done = act(path, *arguments, **options)
            looks.append(numbers(list_steps(run_dir)))
            return done

        return acting

    monkeypatch.setattr(Path, "replace", look_then(replace))
    monkeypatch.setattr(Path, "unlink", look_then(unlink))
    prune(run_dir, Retention(keep_last=2, keep_every=10))
    assert looks == [[10, 11, 12]] * 4


def test_a_reduction_that_was_killed_halfway_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = publish_steps(tmp_path, 10, 11, 12)
    retention = Retention(keep_last=2, keep_every=10)

    def die(path: Path, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            prune(run_dir, retention)
    assert (run_dir / "step-00000010" / "training_state.json").exists()
    verify(read_step(run_dir / "step-00000010"))
    prune(run_dir, retention)
    assert not (run_dir / "step-00000010" / "training_state.json").exists()
    verify(read_step(run_dir / "step-00000010"))


def test_a_broken_step_does_not_count_among_those_that_are_kept(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 1, 2, 3, 4)
    truncate(run_dir / "step-00000004")
    assert prune(run_dir, Retention(keep_last=2)) == [1]
    assert numbers(list_steps(run_dir)) == [2, 3]
    assert (run_dir / "step-00000004").exists()


def test_pruning_reads_no_weights(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 1, 2, 3)
    flip_byte(run_dir / "step-00000002")
    assert prune(run_dir, Retention(keep_last=2)) == [1]


def test_an_open_file_of_a_pruned_step_can_be_read_to_its_end(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 1)
    step = newest_step(run_dir)
    content = (step.path / "model.safetensors").read_bytes()
    with (step.path / "model.safetensors").open("rb") as file:
        publish_steps(tmp_path, 2, 3)
        prune(run_dir, Retention(keep_last=2))
        assert not step.path.exists()
        assert file.read() == content


def test_sweep_removes_what_dead_writers_left_and_nothing_else(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 1, 2)
    leftovers = [".tmp-step-00000003-7", ".trash-step-00000001-7"]
    for name in (*leftovers, ".bad-step-00000002-0", "other"):
        (run_dir / name).mkdir()
        (run_dir / name / "file").write_text("half")
    (run_dir / "metrics.jsonl").write_text("{}")
    assert sorted(sweep(run_dir)) == leftovers
    assert sweep(run_dir) == []
    assert {path.name for path in run_dir.iterdir()} == {
        ".bad-step-00000002-0",
        ".lock",
        "metrics.jsonl",
        "other",
        "step-00000001",
        "step-00000002",
    }


def test_what_was_moved_aside_goes_when_the_newest_steps_are_all_past_it(tmp_path: Path) -> None:
    run_dir = publish_steps(tmp_path, 1, 3)
    aside = [".bad-step-00000001-0", ".bad-step-00000001-1", ".bad-step-00000003-0"]
    for name in aside:
        (run_dir / name).mkdir()
    for step, left in ((None, aside), (4, aside[2:]), (5, [])):
        if step is not None:
            publish_steps(tmp_path, step)
        prune(run_dir, Retention(keep_last=2))
        assert sorted(path.name for path in run_dir.glob(".bad-*")) == left
