"""What is in memory, over a real worker that runs nothing."""

import gc
import shutil
import weakref
from pathlib import Path

import pytest
from serving.manual_watcher import Watching
from toys import publish_toy

from service.errors import NoRoom
from service.models import residency


@pytest.fixture
def watching(tmp_path: Path) -> Watching:
    for step in (1, 2, 3, 4, 5):
        publish_toy(tmp_path, "toy", step)
    watching = Watching(tmp_path, max_models=3, drain_s=10.0)
    watching.look()
    return watching


def name(watching: Watching, *steps: int) -> None:
    """Let somebody name these steps, in this order."""
    by_number = {step.number: step for step in watching.catalog.survey("toy").steps}
    for step in steps:
        watching.library.by_name(f"toy@{step}", [by_number[step]])


def test_a_named_model_stays_and_is_not_loaded_twice(watching: Watching) -> None:
    name(watching, 1, 1, 5)
    assert watching.in_memory == ["toy@5", "toy@1"]
    assert watching.loads == ["toy@5", "toy@1"]
    found = watching.residency.find(lambda checkpoint: checkpoint.name == "toy@1")
    assert found is not None
    assert found.checkpoint.step == 1
    assert watching.residency.find(lambda checkpoint: checkpoint.name == "toy@2") is None


def test_the_least_recently_used_idle_one_makes_room(watching: Watching) -> None:
    name(watching, 1, 2, 1)
    name(watching, 3)
    assert watching.in_memory == ["toy@5", "toy@1", "toy@3"]
    watching.busy["toy@1"] = 1
    name(watching, 4)
    assert watching.in_memory == ["toy@5", "toy@1", "toy@4"], "a busy one is not evicted"


def test_without_an_idle_one_there_is_no_room(watching: Watching) -> None:
    name(watching, 1, 2)
    watching.busy |= {"toy@1": 1, "toy@2": 3}
    with pytest.raises(NoRoom, match="3 models are in memory and busy, max_resident_models is 3"):
        name(watching, 3)
    assert watching.refused == [], "that is nobody's fault"
    watching.busy.clear()
    name(watching, 3)
    assert watching.in_memory == ["toy@5", "toy@2", "toy@3"]


def test_one_that_was_pruned_is_evicted_last(watching: Watching) -> None:
    name(watching, 1, 2)
    shutil.rmtree(watching.catalog.volume / "toy" / "step-00000001")
    name(watching, 3)
    assert watching.in_memory == ["toy@5", "toy@1", "toy@3"]


def test_short_memory_evicts_and_then_refuses(watching: Watching) -> None:
    name(watching, 1)
    watching.available_bytes = 10
    with pytest.raises(NoRoom, match="10 are available"):
        name(watching, 2)
    assert watching.in_memory == ["toy@5"]


def test_a_replaced_model_goes_when_it_has_drained(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims: list[bool] = []
    monkeypatch.setattr(residency.memory, "trim", lambda: trims.append(True))
    current = watching.residency.current
    assert current is not None
    weights = weakref.ref(current.engine)
    del current
    watching.busy["toy@5"] = 1
    publish_toy(watching.catalog.volume, "toy", 6)
    watching.look(2)
    assert watching.in_memory == ["toy@6", "toy@5"]
    assert trims == [True], "after the load of the new one"
    watching.busy.clear()
    watching.look()
    assert watching.in_memory == ["toy@6"]
    gc.collect()
    assert weights() is None
    watching.look(2)
    assert trims == [True, True], "once more, when the weights are gone"


def test_a_model_that_was_named_while_it_served_stays_when_it_is_replaced(
    watching: Watching,
) -> None:
    name(watching, 5)
    publish_toy(watching.catalog.volume, "toy", 6)
    watching.look(2)
    assert watching.in_memory == ["toy@6", "toy@5"]


def test_one_that_is_being_drained_stays_if_it_is_named(watching: Watching) -> None:
    watching.busy["toy@5"] = 1
    publish_toy(watching.catalog.volume, "toy", 6)
    watching.look()
    assert watching.residency.find(lambda checkpoint: checkpoint.step == 5) is not None
    watching.busy.clear()
    watching.now = 1000.0
    watching.look(2)
    assert watching.in_memory == ["toy@6", "toy@5"]
    assert watching.loads == ["toy@5", "toy@6"]


def test_what_does_not_drain_in_time_is_ended(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[tuple[str, str]] = []
    monkeypatch.setattr(
        watching.worker,
        "end_all",
        lambda model, message: ended.append((model.checkpoint.name, message)),
    )
    watching.busy["toy@5"] = 1
    publish_toy(watching.catalog.volume, "toy", 6)
    watching.look()
    watching.now = 9.9
    watching.look()
    assert ended == []
    watching.now = 10.0
    watching.look()
    assert ended == [("toy@5", "toy@5 was replaced too long ago")]
