"""The watcher without its thread: ``look`` by hand, over a real volume."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from serving import wait_until
from serving.damage import BAD_STEPS, publish_nan
from toys import publish_toy

from lm.volume import Step, prune
from lm.volume.retention import Retention
from service.engine.served import ServedModel
from service.gate import Gate
from service.loader import Loader, LoaderOptions
from service.watcher import CheckpointWatcher, newest_run

OPTIONS = LoaderOptions(
    device=torch.device("cpu"),
    dtype="float32",
    num_slots=1,
    max_step_tokens=8,
    max_model_tokens=None,
    verify_hashes=True,
)


class Watching:
    """A watcher and what it told."""

    def __init__(self, volume: Path, run: str | None = None, **changes: object) -> None:
        self.served: list[str] = []
        self.refused: list[str] = []
        self.loads: list[str] = []
        self._load = Loader(OPTIONS).load
        options = {
            "load": self.load,
            "gate": Gate(),
            "on_served": lambda model: self.served.append(model.checkpoint.name),
            "on_refused": self.refused.append,
            "poll_interval_s": 0.01,
        }
        self.watcher = CheckpointWatcher(volume, run, **{**options, **changes})  # type: ignore[arg-type]

    def load(self, step: Step) -> ServedModel:
        self.loads.append(step.name)
        return self._load(step)

    def look(self) -> list[str]:
        """Look once; returns everything served so far."""
        self.watcher.look()
        return self.served


def test_an_empty_volume_is_waited_for(tmp_path: Path) -> None:
    watching = Watching(tmp_path / "later")
    assert watching.look() == []
    assert watching.watcher.why_not_ready() == "no run with a complete checkpoint in later yet"
    assert watching.watcher.steps() == []
    publish_toy(tmp_path / "later", "toy", 1)
    assert watching.look() == ["toy@1"]
    assert watching.watcher.run == "toy"


def test_the_newest_is_served_and_then_each_newer_one(tmp_path: Path) -> None:
    for step in (1, 5, 3):
        publish_toy(tmp_path, "toy", step)
    watching = Watching(tmp_path)
    assert watching.look() == ["toy@5"]
    assert watching.look() == ["toy@5"]
    publish_toy(tmp_path, "toy", 4)
    assert watching.look() == ["toy@5"]
    publish_toy(tmp_path, "toy", 12)
    assert watching.look() == ["toy@5", "toy@12"]
    assert watching.loads == ["toy@5", "toy@12"]


def test_the_run_with_the_newest_manifest_is_followed_until_the_end(tmp_path: Path) -> None:
    publish_toy(tmp_path, "a", 9)
    publish_toy(tmp_path, "b", 2)
    assert newest_run(tmp_path) == "b"
    watching = Watching(tmp_path)
    assert watching.look() == ["b@2"]
    publish_toy(tmp_path, "a", 10)
    assert watching.look() == ["b@2"]
    assert Watching(tmp_path).look() == ["a@10"]


def test_a_run_that_is_named_is_waited_for(tmp_path: Path) -> None:
    publish_toy(tmp_path, "other", 1)
    watching = Watching(tmp_path, "toy")
    assert watching.look() == []
    assert watching.watcher.why_not_ready() == "no complete checkpoint of run toy yet"
    publish_toy(tmp_path, "toy", 1)
    assert watching.look() == ["toy@1"]


@pytest.mark.parametrize("kind", BAD_STEPS)
def test_a_bad_step_is_refused_once_and_the_old_one_goes_on(tmp_path: Path, kind: str) -> None:
    reason, publish_bad = BAD_STEPS[kind]
    publish_toy(tmp_path, "toy", 1)
    watching = Watching(tmp_path)
    watching.look()
    bad = publish_bad(tmp_path, 2)
    for _ in range(3):
        assert watching.look() == ["toy@1"]
    assert watching.refused == [reason]
    assert watching.watcher.refusals[2].reason == reason
    assert watching.loads.count("toy@2") <= 1
    shutil.rmtree(bad.path)
    publish_toy(tmp_path, "toy", 2)
    assert watching.look() == ["toy@1", "toy@2"]
    assert watching.watcher.refusals == {}


@pytest.mark.parametrize("kind", BAD_STEPS)
def test_the_first_checkpoint_passes_the_same_gate(tmp_path: Path, kind: str) -> None:
    reason, publish_bad = BAD_STEPS[kind]
    publish_bad(tmp_path, 7)
    watching = Watching(tmp_path, "toy")
    assert watching.look() == []
    assert watching.refused == [reason]
    assert watching.watcher.why_not_ready().startswith("step 7 of run toy was refused: ")
    publish_toy(tmp_path, "toy", 3)
    assert watching.look() == ["toy@3"], "an older one that is good serves meanwhile"


def test_a_refused_step_is_tried_again_once_it_changes(tmp_path: Path) -> None:
    bad = publish_nan(tmp_path, 1)
    watching = Watching(tmp_path)
    watching.look()
    os.utime(bad.path / "model.safetensors", (1, 1))
    watching.look()
    watching.look()
    assert watching.loads == ["toy@1"] * 2
    assert watching.refused == ["weights_not_finite"] * 2


def test_a_refused_step_that_is_pruned_is_forgotten(tmp_path: Path) -> None:
    publish_toy(tmp_path, "toy", 1)
    watching = Watching(tmp_path)
    watching.look()
    shutil.rmtree(publish_nan(tmp_path, 2).path)
    bad = publish_nan(tmp_path, 3)
    watching.look()
    assert watching.watcher.refusals.keys() == {3}
    shutil.rmtree(bad.path)
    watching.look()
    assert watching.watcher.refusals == {}


def test_a_step_that_is_still_being_copied_is_not_refused(tmp_path: Path) -> None:
    """On a store without rename the manifest comes last."""
    publish_toy(tmp_path, "toy", 1)
    watching = Watching(tmp_path)
    watching.look()
    step = publish_toy(tmp_path, "toy", 2)
    manifest = (step.path / "manifest.json").read_bytes()
    (step.path / "manifest.json").unlink()
    assert watching.look() == ["toy@1"]
    assert watching.refused == []
    (step.path / "manifest.json").write_bytes(manifest)
    assert watching.look() == ["toy@1", "toy@2"]


def test_pruning_the_served_step_changes_nothing(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        publish_toy(tmp_path, "toy", step)
    watching = Watching(tmp_path)
    watching.look()
    publish_toy(tmp_path, "toy", 4)
    publish_toy(tmp_path, "toy", 5)
    prune(tmp_path / "toy", Retention(keep_last=2), best=1)
    assert watching.look() == ["toy@3", "toy@5"]
    shutil.rmtree(tmp_path / "toy" / "step-00000005")
    assert watching.look() == ["toy@3", "toy@5"], "older ones do not come back"


def test_a_run_that_is_wiped_and_begun_again_is_picked_up(tmp_path: Path) -> None:
    publish_toy(tmp_path, "toy", 500)
    watching = Watching(tmp_path)
    watching.look()
    shutil.rmtree(tmp_path / "toy")
    assert watching.look() == ["toy@500"]
    publish_toy(tmp_path, "toy", 10, seed=2)
    assert watching.look() == ["toy@500", "toy@10"]
    publish_toy(tmp_path, "toy", 20, seed=3)
    assert watching.look() == ["toy@500", "toy@10", "toy@20"]


def test_a_volume_that_goes_away_and_comes_back_changes_nothing(tmp_path: Path) -> None:
    volume, away = tmp_path / "volume", tmp_path / "away"
    publish_toy(volume, "toy", 1)
    watching = Watching(volume)
    watching.look()
    publish_nan(volume, 2)
    watching.look()
    volume.rename(away)
    assert watching.look() == ["toy@1"]
    away.rename(volume)
    assert watching.look() == ["toy@1"]
    assert watching.refused == ["weights_not_finite"]
    publish_toy(volume, "toy", 3)
    assert watching.look() == ["toy@1", "toy@3"]


def test_whatever_a_load_raises_is_a_refusal(tmp_path: Path) -> None:
    def load(step: Step) -> ServedModel:
        if step.number == 2:
            raise RuntimeError("out of memory")
        return Loader(OPTIONS).load(step)

    watching = Watching(tmp_path, load=load)
    publish_toy(tmp_path, "toy", 1)
    publish_toy(tmp_path, "toy", 2)
    for _ in range(2):
        assert watching.look() == ["toy@1"]
    assert watching.refused == ["load_failed"]
    assert watching.watcher.refusals[2].message == "RuntimeError: out of memory"


def test_the_thread_looks_again_and_again_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = Watching(tmp_path)
    faults: list[Exception] = [OSError("stale handle"), KeyError("a bug")]
    look = watching.watcher.look

    def failing_look() -> None:
        if faults:
            raise faults.pop()
        look()

    monkeypatch.setattr(watching.watcher, "look", failing_look)
    watching.watcher.start()
    publish_toy(tmp_path, "toy", 1)
    wait_until(lambda: watching.served == ["toy@1"], "the step is served")
    publish_toy(tmp_path, "toy", 2)
    wait_until(lambda: watching.served == ["toy@1", "toy@2"], "the next one is served")
    watching.watcher.stop()
    assert faults == []
