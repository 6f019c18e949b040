"""The watcher, mostly without its thread: ``look`` by hand, over a real volume."""

import os
import shutil
import time
import weakref
from pathlib import Path

import pytest
from serving import wait_until
from serving.damaged_steps import BAD_STEPS, publish_nan
from serving.manual_watcher import OPTIONS, Watching
from toys import publish_toy, toy_weights

from lm.volume import Step, StepUnreadable, StepVanished, prune
from lm.volume.retention import Retention
from service.engine.gpu.double_buffer import NoFreeSet
from service.engine.served_model import ServedModel
from service.errors import Draining, UnknownModel
from service.models.loading.gate import Gate
from service.models.loading.loader import Loader
from service.models.watcher import UNFINISHED_LOOKS
from service.settings.schema import Settings


def publish_worse(volume: Path, step: int, factor: float) -> Step:
    """A step whose logits are so many times too large."""
    weights = toy_weights(1)
    weights["model.norm.weight"] = weights["model.norm.weight"] * factor
    return publish_toy(volume, "toy", step, weights=weights)


def test_an_empty_volume_is_waited_for(tmp_path: Path) -> None:
    watching = Watching(tmp_path / "later")
    assert watching.look() == []
    assert watching.watcher.why_not_ready() == "no run with a complete checkpoint in later yet"
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
    watching = Watching(tmp_path)
    assert watching.catalog.newest_run() == "b"
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
    assert watching.refusals.table[("toy", 2)].reason == reason
    assert watching.loads.count("toy@2") <= 1
    shutil.rmtree(bad.path)
    publish_toy(tmp_path, "toy", 2)
    assert watching.look() == ["toy@1", "toy@2"]
    assert watching.refusals.table == {}


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
    assert watching.refusals.table.keys() == {("toy", 3)}
    shutil.rmtree(bad.path)
    watching.look()
    assert watching.refusals.table == {}


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
    prune(tmp_path / "toy", Retention(keep_last=2))
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
    assert (
        watching.refusals.table[("toy", 2)].message == "RuntimeError; the service's log says more"
    )


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


def test_a_worse_checkpoint_waits_for_a_better_one(tmp_path: Path) -> None:
    watching = Watching(tmp_path, gate=Gate(max_bpb_regression=0.05))
    publish_worse(tmp_path, 1, 1.0)
    assert watching.look() == ["toy@1"]
    publish_worse(tmp_path, 2, 30.0)
    assert watching.look(3) == ["toy@1"]
    assert watching.refused == ["regression"]
    assert watching.loads == ["toy@1", "toy@2"]
    publish_worse(tmp_path, 3, 1.0)
    assert watching.look() == ["toy@1", "toy@3"]


def test_who_asks_by_name_gets_what_policy_refuses_and_the_refusal_stays(tmp_path: Path) -> None:
    watching = Watching(tmp_path, gate=Gate(refuse_memorising=True))
    publish_toy(tmp_path, "toy", 1)
    step = publish_toy(tmp_path, "toy", 2, flags=("memorising",))
    assert watching.look() == ["toy@1"]
    assert watching.loads == ["toy@1"], "the manifest alone tells"
    assert watching.library.by_name("toy@2", [step]).checkpoint.name == "toy@2"
    assert watching.look(2) == ["toy@1"]
    assert watching.refused == ["memorising"]


def test_a_disk_that_fails_is_tried_again_and_counted_once(tmp_path: Path) -> None:
    failing = True

    def load(step: Step) -> ServedModel:
        if failing:
            raise StepUnreadable("Input/output error")
        return Loader(OPTIONS).load(step)

    publish_toy(tmp_path, "toy", 1)
    watching = Watching(tmp_path, load=load)
    watching.look(50)
    assert 2 <= len(watching.loads) <= 5
    assert watching.refused == ["read_error"]
    assert "Input/output error" in watching.watcher.why_not_ready()
    failing = False
    assert watching.look(20) == ["toy@1"]
    assert watching.refusals.table == {}


def test_a_step_that_never_completes_is_said_after_a_while(tmp_path: Path) -> None:
    publish_toy(tmp_path, "toy", 1)
    watching = Watching(tmp_path)
    watching.look()
    stuck = tmp_path / "toy" / "step-00000002"
    stuck.mkdir()
    watching.look(UNFINISHED_LOOKS)
    (stuck / "config.json").write_text("{}")  # something moves
    watching.look(UNFINISHED_LOOKS)
    assert watching.refused == []
    watching.look(10)
    assert watching.refused == ["incomplete"]
    assert watching.served == ["toy@1"]
    shutil.rmtree(stuck)
    publish_toy(tmp_path, "toy", 2)
    assert watching.look() == ["toy@1", "toy@2"]


def test_clocks_that_jump_change_nothing(tmp_path: Path) -> None:
    """A run begun again under a clock that was set back is newer all the same."""

    def date(step: Step, year: int) -> None:
        file = step.path / "manifest.json"
        created = step.manifest.created_at
        file.write_text(file.read_text().replace(created, f"{year}{created[4:]}"))

    date(publish_toy(tmp_path, "toy", 5), 2090)
    watching = Watching(tmp_path)
    assert watching.look() == ["toy@5"]
    date(publish_toy(tmp_path, "toy", 6), 1990)
    date(publish_toy(tmp_path, "toy", 4), 2099)
    assert watching.look(2) == ["toy@5", "toy@6"]
    shutil.rmtree(tmp_path / "toy")
    watching.look()
    date(publish_toy(tmp_path, "toy", 2, seed=3), 1980)
    assert watching.look() == ["toy@5", "toy@6", "toy@2"]


def test_a_problem_with_the_volume_is_said_once_and_its_end_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume = tmp_path / "volume"
    publish_toy(volume, "toy", 1)
    watching = Watching(volume)
    watching.look()
    volume.rename(tmp_path / "away")
    watching.look(3)
    assert watching.watcher.problem == "toy: No such file or directory"
    (tmp_path / "away").rename(volume)
    watching.look(3)
    assert watching.watcher.problem is None
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said == ["toy: No such file or directory", "the volume can be read again"]
    assert watching.problems == [None, *["toy: No such file or directory"] * 3, *[None] * 3]


def test_a_held_step_serves_until_it_is_released(tmp_path: Path) -> None:
    for step in (1, 2):
        publish_toy(tmp_path, "toy", step)
    watching = Watching(tmp_path)
    watching.look()
    old = watching.catalog.survey("toy").steps[0]
    orders = watching.watcher._orders
    held = watching.watcher.hold("toy@1", [old])
    orders.carry_out()
    assert held.result().checkpoint.name == "toy@1"
    publish_toy(tmp_path, "toy", 3)
    assert watching.look(2) == ["toy@2", "toy@1"]
    prune(tmp_path / "toy", Retention(keep_last=2))
    assert watching.look() == ["toy@2", "toy@1"]
    assert not old.path.exists()
    assert watching.in_memory[0] == "toy@1"
    released = watching.watcher.release()
    orders.carry_out()
    released.result()
    assert watching.served == ["toy@2", "toy@1", "toy@3"]
    publish_toy(tmp_path, "toy", 4)
    assert watching.look()[-1] == "toy@4"


def test_a_step_that_must_not_be_served_cannot_be_held(tmp_path: Path) -> None:
    publish_toy(tmp_path, "toy", 1)
    bad = publish_nan(tmp_path, 2)
    watching = Watching(tmp_path)
    watching.look()
    held = watching.watcher.hold("toy@2", [bad])
    watching.watcher._orders.carry_out()
    with pytest.raises(UnknownModel, match=r"model\.norm\.weight has values that are not finite"):
        held.result()
    assert not watching.watcher.is_holding
    publish_toy(tmp_path, "toy", 3)
    assert watching.look() == ["toy@1", "toy@3"]


def test_a_run_begun_again_replaces_what_its_names_meant(tmp_path: Path) -> None:
    first = publish_toy(tmp_path, "toy", 1)
    publish_toy(tmp_path, "toy", 2)
    watching = Watching(tmp_path)
    watching.look()
    watching.library.by_name("toy@1", [first])
    assert watching.in_memory == ["toy@2", "toy@1"]
    shutil.rmtree(first.path)
    watching.look()
    assert watching.in_memory == ["toy@2", "toy@1"], "a pruned step that was named stays"
    publish_toy(tmp_path, "toy", 1, seed=9)
    watching.look()
    assert watching.in_memory == ["toy@2"]


def test_a_swap_waits_for_room_and_is_said_once(tmp_path: Path) -> None:
    watching = Watching(tmp_path, max_models=2)
    for step in (1, 2, 3):
        publish_toy(tmp_path, "toy", step)
        watching.busy[f"toy@{step}"] = 1
        watching.look(2)
    assert watching.served == ["toy@1", "toy@2"]
    assert watching.refused == ["no_room"]
    watching.busy.clear()
    assert watching.look(2) == ["toy@1", "toy@2", "toy@3"]
    assert watching.refusals.table == {}


def test_short_memory_keeps_the_old_model(tmp_path: Path) -> None:
    publish_toy(tmp_path, "toy", 1)
    watching = Watching(tmp_path)
    watching.look()
    watching.available_bytes = 1000
    publish_toy(tmp_path, "toy", 2)
    assert watching.look(5) == ["toy@1"]
    assert watching.refused == ["no_room"]
    assert "1,000 are available" in watching.refusals.table[("toy", 2)].message
    watching.available_bytes = None
    assert watching.look(2) == ["toy@1", "toy@2"]


@pytest.mark.alone
def test_a_new_step_is_noticed_within_a_second(tmp_path: Path) -> None:
    """At the default interval; the median, since a busy machine may stall any one of them."""
    begun: dict[int, float] = {}

    def load(step: Step) -> ServedModel:
        begun[step.number] = time.monotonic()
        raise StepVanished("noticed")

    publish_toy(tmp_path, "toy", 1)
    watching = Watching(tmp_path, load=load)
    watching.watcher._poll_interval_s = Settings().poll_interval_s
    watching.watcher.start()
    delays = []
    for number in (2, 3, 4):
        publish_toy(tmp_path, "toy", number)
        published = time.monotonic()
        wait_until(lambda number=number: number in begun, "it is noticed")  # type: ignore[misc]
        delays.append(begun[number] - published)
    watching.watcher.stop()
    assert sorted(delays)[1] < 1.0


def test_orders_that_come_too_late_are_answered(tmp_path: Path) -> None:
    step = publish_toy(tmp_path, "toy", 1)
    watching = Watching(tmp_path)
    watching.watcher._is_stopping = True
    late = watching.watcher.load("toy@1", [step])
    watching.watcher.start()
    with pytest.raises(Draining):
        late.result(20)


class Sets:
    """A loader with two sets of weights, as a GPU has."""

    def __init__(self) -> None:
        self._load = Loader(OPTIONS).load
        self.free = 2

    def load(self, step: Step) -> ServedModel:
        if not self.free:
            raise NoFreeSet("all sets of weights on the GPU are in use")
        self.free -= 1
        model = self._load(step)
        weakref.finalize(model.engine, self._give_back)
        return model

    def _give_back(self) -> None:
        self.free += 1


def test_a_named_model_that_nobody_uses_gives_its_set_of_weights_to_the_next_step(
    tmp_path: Path,
) -> None:
    watching = Watching(tmp_path, load=Sets().load)
    steps = [publish_toy(tmp_path, "toy", step) for step in (1, 2)]
    assert watching.look() == ["toy@2"]
    watching.library.by_name("toy@1", steps[:1])
    assert watching.in_memory == ["toy@2", "toy@1"]
    publish_toy(tmp_path, "toy", 3)
    assert watching.look() == ["toy@2", "toy@3"]
    assert watching.refused == []


def test_a_third_model_waits_for_a_set_of_weights(tmp_path: Path) -> None:
    watching = Watching(tmp_path, load=Sets().load)
    for step in (1, 2, 3):
        publish_toy(tmp_path, "toy", step)
        watching.busy[f"toy@{step}"] = 1
        watching.look()
    assert watching.served == ["toy@1", "toy@2"]
    assert watching.refused == ["no_room"]
    watching.busy.clear()
    assert watching.look(2)[-1] == "toy@3"
