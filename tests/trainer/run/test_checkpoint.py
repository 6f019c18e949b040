import dataclasses
import errno
import functools
import threading
from pathlib import Path

import pytest
import torch
from toy_run import toy_recipe
from toys import toy_config, toy_decoder, toy_tokenizer

from lm.machine.threads import Roots
from lm.volume import Retention, RunLock, list_steps, load_weights, newest_step
from trainer.recipe.sections import OptimizerConfig
from trainer.run import checkpoint
from trainer.run.checkpoint import Checkpointer, Written
from trainer.run.snapshot import Snapshot, Subject
from trainer.run.state import load_state
from trainer.step.counters import Counters
from trainer.step.optimizer import Optimizer, Rates


def toy_snapshot(step: int, loss: float | None = None) -> Snapshot:
    """Of a run whose held-out loss was measured at this step, or not."""
    decoder = toy_decoder()
    subject = Subject(
        recipe=toy_recipe("unit=micro"),
        decoder=decoder,
        optimizer=Optimizer(decoder.named_parameters(), OptimizerConfig(lr=0.1)),
        tokenizer=toy_tokenizer(),
        precision="float32",
    )
    evaluated_at = step if loss is not None else 0
    counters = Counters(micro_step=step, evaluated_at=evaluated_at, validation_loss=loss)
    return subject.snapshot(counters)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "toy").mkdir()
    return tmp_path / "toy"


def checkpointer_for(
    run_dir: Path,
    reports: list[Written],
    *,
    keep_best: bool = True,
    roots: Roots | None = None,
) -> Checkpointer:
    return Checkpointer(
        run_dir,
        Retention(keep_last=2),
        keep_best=keep_best,
        model_config=toy_config(),
        tokenizer=toy_tokenizer(),
        on_written=reports.append,
        roots=roots,
    )


def test_a_saved_snapshot_becomes_a_resumable_step(run_dir: Path) -> None:
    reports: list[Written] = []
    checkpointer = checkpointer_for(run_dir, reports)
    snapshot = toy_snapshot(4)
    checkpointer.save(lambda: snapshot)
    checkpointer.finish()
    step = newest_step(run_dir)
    assert step is not None
    assert step.number == 4
    weights = load_weights(step)
    assert all(torch.equal(weights[name], snapshot.weights[name]) for name in weights)
    assert load_state(step)[0] == snapshot.state
    assert [(report.step, report.error) for report in reports] == [(4, None)]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_is_no_exception_ends_the_run_as_one(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    def fail(*_: object) -> None:
        raise kind

    monkeypatch.setattr(checkpoint, "publish", fail)
    roots = Roots((counted := []).append)
    checkpointer = checkpointer_for(run_dir, [], roots=roots)
    checkpointer.save(lambda: toy_snapshot(1))
    with pytest.raises(RuntimeError, match=kind.__name__):
        checkpointer.finish()
    assert counted == ["checkpoint"]


def test_without_memory_for_a_write_the_next_one_is_done(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    reports: list[Written] = []
    checkpointer = checkpointer_for(run_dir, reports)
    with monkeypatch.context() as broken:
        broken.setattr(checkpoint, "publish", fail)
        checkpointer.save(lambda: toy_snapshot(1))
        checkpointer.collect()
        checkpointer.save(lambda: toy_snapshot(2))
        with pytest.raises(OSError, match="step 2 could not be saved: MemoryError"):
            checkpointer.finish()
    checkpointer.save(lambda: toy_snapshot(3))
    checkpointer.finish()
    assert [step.number for step in list_steps(run_dir)] == [3]
    assert [(one.step, one.error is None) for one in reports] == [(1, False), (2, False), (3, True)]


def test_a_snapshot_does_not_change_when_the_weights_do(run_dir: Path) -> None:
    del run_dir
    decoder = toy_decoder()
    optimizer = Optimizer(decoder.named_parameters(), OptimizerConfig(lr=0.1))
    subject = Subject(
        recipe=toy_recipe(), decoder=decoder, optimizer=optimizer,
        tokenizer=toy_tokenizer(), precision="float32",
    )  # fmt: skip
    snapshot = subject.snapshot(Counters())
    before = {name: tensor.clone() for name, tensor in snapshot.weights.items()}
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(snapshot.weights[name], before[name]) for name in before)


def test_every_snapshot_is_copied_into_the_memory_of_the_one_before() -> None:
    decoder = toy_decoder()
    optimizer = Optimizer(decoder.named_parameters(), OptimizerConfig(lr=0.1))
    subject = Subject(
        recipe=toy_recipe(), decoder=decoder, optimizer=optimizer,
        tokenizer=toy_tokenizer(), precision="float32",
    )  # fmt: skip
    subject.reserve()
    for parameter in decoder.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(Rates(lr=0.1, muon_lr=0.1, weight_decay=0.0))
    first = subject.snapshot(Counters())
    places = {name: tensor.data_ptr() for name, tensor in (first.weights | first.moments).items()}
    optimizer.step(Rates(lr=0.1, muon_lr=0.1, weight_decay=0.0))
    second = subject.snapshot(Counters())
    now = second.weights | second.moments
    assert {name: tensor.data_ptr() for name, tensor in now.items()} == places
    truth = dict(decoder.named_parameters()) | optimizer.state_tensors()
    assert now.keys() == truth.keys()
    assert all(torch.equal(now[name], truth[name]) for name in truth)
    assert not {*places.values()} & {tensor.data_ptr() for tensor in truth.values()}


def test_a_snapshot_is_not_taken_before_the_one_before_it_is_written(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    publish = checkpoint.publish

    def slow_publish(*arguments: object, **keywords: object) -> object:
        threading.Event().wait(0.1)
        result = publish(*arguments, **keywords)
        order.append("written")
        return result

    def take(step: int) -> Snapshot:
        order.append("taken")
        return toy_snapshot(step)

    monkeypatch.setattr(checkpoint, "publish", slow_publish)
    checkpointer = checkpointer_for(run_dir, [])
    for step in (2, 4):
        checkpointer.save(functools.partial(take, step))
    checkpointer.finish()
    assert order == ["taken", "written", "taken", "written"]


def test_saving_returns_while_the_step_is_still_being_written(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write = threading.Event()
    publish = checkpoint.publish

    def slow_publish(*arguments: object, **keywords: object) -> object:
        may_write.wait(30)
        return publish(*arguments, **keywords)

    monkeypatch.setattr(checkpoint, "publish", slow_publish)
    reports: list[Written] = []
    checkpointer = checkpointer_for(run_dir, reports)
    checkpointer.save(lambda: toy_snapshot(2))
    assert checkpointer.is_writing
    checkpointer.poll()
    assert reports == []
    assert list_steps(run_dir) == []
    may_write.set()
    checkpointer.finish()
    assert not checkpointer.is_writing
    assert [step.number for step in list_steps(run_dir)] == [2]


def test_old_steps_are_pruned_but_never_the_best_that_was_measured(run_dir: Path) -> None:
    """Step 5 was never evaluated, so nobody can say how good it is."""
    checkpointer = checkpointer_for(run_dir, [])
    with RunLock(run_dir):
        for step, loss in ((2, 3.0), (4, 2.0), (5, None), (6, 2.5), (8, None), (9, None)):
            checkpointer.save(functools.partial(toy_snapshot, step, loss))
        checkpointer.finish()
    assert [step.number for step in list_steps(run_dir)] == [4, 8, 9]


def test_the_best_goes_too_where_the_recipe_does_not_keep_it(run_dir: Path) -> None:
    checkpointer = checkpointer_for(run_dir, [], keep_best=False)
    for step in (2, 4, 6):
        checkpointer.save(functools.partial(toy_snapshot, step, float(step)))
    checkpointer.finish()
    assert [step.number for step in list_steps(run_dir)] == [4, 6]


def test_a_full_disk_is_reported_keeps_old_steps_and_fails_only_the_last_save(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[Written] = []
    checkpointer = checkpointer_for(run_dir, reports)
    checkpointer.save(lambda: toy_snapshot(2))
    checkpointer.collect()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "publish", full)
    checkpointer.save(lambda: toy_snapshot(4))
    checkpointer.collect()
    assert isinstance(reports[-1].error, OSError)
    checkpointer.save(lambda: toy_snapshot(6))
    with pytest.raises(OSError, match=r"step 6 could not be saved: .*No space left"):
        checkpointer.finish()
    assert [step.number for step in list_steps(run_dir)] == [2]


def test_a_mistake_of_ours_in_the_writing_thread_surfaces(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "publish", lambda *_, **__: 1 / 0)
    checkpointer = checkpointer_for(run_dir, [])
    checkpointer.save(lambda: toy_snapshot(2))
    with pytest.raises(ZeroDivisionError):
        checkpointer.collect()


def test_finishing_with_nothing_under_way_does_nothing(run_dir: Path) -> None:
    checkpointer_for(run_dir, []).finish()
    assert list_steps(run_dir) == []


def test_snapshots_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        toy_snapshot(2).step = 3  # type: ignore[misc]
