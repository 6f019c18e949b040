"""What the loop does when something goes wrong in it; that it is exact is ``test_run``'s."""

import dataclasses
import functools
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from toy_run import journal_of, tensors_of, toy_recipe, train_toy

from lm.model.attention import CausalAttention
from lm.model.decoder import Decoder
from lm.volume import newest_step
from trainer.recipe.step_plan import Window
from trainer.run import assemble as run
from trainer.run.interrupt import Interrupt
from trainer.run.loop import Ending, Loop
from trainer.run.optimizer_steps import MAX_SKIPPED_IN_A_ROW, Diverged, Steps
from trainer.step.fused.chunked_loss import chunked_cross_entropy
from trainer.step.loss import IGNORED, batch_loss
from trainer.step.outcome import Reading, Values

ONE_EACH = ("batch.grad_accum_steps=1", "model.dropout=0.0")


@pytest.fixture
def replace_loss(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Tensor]], None]:
    """Put another loss in place of the real one."""
    return lambda loss: monkeypatch.setattr(run, "batch_loss", loss)


def failing_at(*calls: int, value: float = math.nan) -> Callable[[Decoder, Tensor, Tensor], Tensor]:
    """The real loss, but not finite at some of the training batches."""
    counted = 0

    def loss(decoder: Decoder, inputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal counted
        total = batch_loss(decoder, inputs, targets)
        if decoder.training:
            counted += 1
            if counted in calls:
                return total * value
        return total

    return loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("reads_back", [True, False])
def test_a_loss_that_is_not_finite_skips_the_step_and_never_touches_the_weights(
    value: float, reads_back: bool, tmp_path: Path, replace_loss: Callable[..., None]
) -> None:
    recipe = toy_recipe(*ONE_EACH)
    train_toy = functools.partial(toy_run.train_toy, reads_back=reads_back)
    train_toy(tmp_path, recipe, last_step=3)
    before = tensors_of(tmp_path)
    replace_loss(failing_at(1, 2, value=value))
    train_toy(tmp_path, recipe, last_step=5)
    after = tensors_of(tmp_path)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [line["step"] for line in journal_of(tmp_path) if line["kind"] == "train"] == [1, 2, 3]
    log = (tmp_path / "toy" / "training.log").read_text()
    assert "step 5 skipped: loss or gradient not finite" in log
    assert "(2 in a row, 2 in all)" in log
    train_toy(tmp_path, recipe, last_step=6)
    assert journal_of(tmp_path)[-1]["skipped_steps"] == 2
    assert any(not torch.equal(tensors_of(tmp_path)[name], before[name]) for name in before)


def test_one_bad_micro_batch_of_several_skips_the_whole_step(
    tmp_path: Path, replace_loss: Callable[..., None]
) -> None:
    replace_loss(failing_at(4))  # the second of the second step's two
    train_toy(tmp_path, last_step=3)
    trained = [line["step"] for line in journal_of(tmp_path) if line["kind"] == "train"]
    assert trained == [1, 3]


@pytest.mark.parametrize("reads_back", [True, False])
def test_too_many_bad_steps_in_a_row_stop_the_run_and_keep_the_last_good_checkpoint(
    reads_back: bool, tmp_path: Path, replace_loss: Callable[..., None]
) -> None:
    recipe = toy_recipe(*ONE_EACH, "phases.0.steps=40", "cadence.checkpoint_every=100")
    train_toy(tmp_path, recipe, last_step=2)
    replace_loss(failing_at(*range(1, 100)))
    with pytest.raises(Diverged, match=f"not finite {MAX_SKIPPED_IN_A_ROW} times in a row"):
        train_toy(tmp_path, recipe, reads_back=reads_back)
    newest = newest_step(tmp_path / "toy")
    assert newest is not None
    assert newest.number == 2


def test_a_micro_batch_under_way_does_not_keep_the_last_step_from_being_saved(
    tmp_path: Path, replace_loss: Callable[..., None]
) -> None:
    """The loop hangs in its seventh micro-batch; the rescuing thread publishes step 3."""
    hanging, left = threading.Event(), threading.Event()
    statuses: list[int] = []

    class Stuck(Exception):
        """The way out of the test's hanging micro-batch."""

    def loss(decoder: Decoder, inputs: Tensor, targets: Tensor) -> Tensor:
        if decoder.training and loss.calls == 6:
            hanging.set()
            left.wait(30)
            raise Stuck
        loss.calls += decoder.training
        return batch_loss(decoder, inputs, targets)

    def leave(status: int) -> None:
        statuses.append(status)
        left.set()

    loss.calls = 0
    replace_loss(loss)
    interrupt = Interrupt(patience_s=0.01, leave=leave)

    def signal_arrives() -> None:
        hanging.wait(30)
        interrupt._requested.set()
        interrupt._save_if_nobody_does()

    thread = threading.Thread(target=signal_arrives)
    thread.start()
    with pytest.raises(Stuck):
        train_toy(tmp_path, interrupt=interrupt)
    thread.join()
    assert statuses == [0]
    newest = newest_step(tmp_path / "toy")
    assert newest is not None
    assert newest.number == 3

    replace_loss(batch_loss)
    train_toy(tmp_path)
    train_toy(tmp_path / "whole")
    ours, theirs = tensors_of(tmp_path), tensors_of(tmp_path / "whole")
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


class NothingIsRead(TorchDispatchMode):
    """A device whose values the host may not look at."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a value was read back"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_nothing_is_read_back_while_a_step_is_launched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = 0
    launch = Steps.launch

    def watched(self: Steps, window: Window) -> None:
        nonlocal launched
        launched += 1
        with NothingIsRead():
            launch(self, window)

    monkeypatch.setattr(Steps, "launch", watched)
    monkeypatch.setattr(Tensor, "tolist", lambda _: pytest.fail("a tensor became a list"))
    monkeypatch.setattr(run, "batch_loss", chunked_loss)
    monkeypatch.setattr(Reading, "wait", lambda self: Values(*self._values.numpy().tolist()))
    recipe = toy_recipe(
        f"optimizer.name={name}", "cadence.eval_every=100", "cadence.sample_every=100"
    )
    train_toy(tmp_path, recipe, reads_back=False, last_step=4)
    assert launched == 4
    with pytest.raises(AssertionError, match="read back"), NothingIsRead():
        bool(torch.ones(()))


def chunked_loss(decoder: Decoder, inputs: Tensor, targets: Tensor) -> Tensor:
    """The loss as a GPU computes it."""
    attend = CausalAttention(decoder.config.dropout)
    hidden = decoder.hidden(inputs, torch.arange(inputs.shape[1]), attend)
    weight = decoder.lm_head.weight
    return chunked_cross_entropy(hidden.flatten(0, 1), weight, targets.flatten(), IGNORED)


def test_steps_are_settled_one_late_and_all_at_an_evaluation_or_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way: list[tuple[int, str]] = []
    for owner, name in ((Steps, "launch"), (Loop, "_evaluate"), (Loop, "_snapshot")):
        original = getattr(owner, name)

        def watched(
            self: Any, *args: Any, name: str = name, original: Any = original, **keywords: Any
        ) -> Any:
            result = original(self, *args, **keywords)
            steps = self if isinstance(self, Steps) else self.steps
            under_way.append((len(steps._under_way), name.strip("_")))
            return result

        monkeypatch.setattr(owner, name, watched)
    train_toy(tmp_path, reads_back=False, last_step=5)
    expected = "1 launch, 2 launch, 2 launch, 1 launch, 0 evaluate, 1 launch, 0 snapshot"
    assert ", ".join(f"{count} {name}" for count, name in under_way) == expected


def test_the_speed_shown_leaves_out_evaluation_samples_and_saving(tmp_path: Path) -> None:
    train_toy(tmp_path)
    state = newest_step(tmp_path / "toy")
    assert state is not None
    lines = (tmp_path / "toy" / "metrics.jsonl").read_text()
    assert '"tokens_per_s": 0' not in lines
    whole = toy_recipe(
        "cadence.eval_every=1", "cadence.sample_every=1", "cadence.checkpoint_every=1"
    )
    assert train_toy(tmp_path / "often", whole) is Ending.COMPLETE
    often, seldom = tensors_of(tmp_path / "often"), tensors_of(tmp_path)
    assert all(torch.equal(often[name], tensor) for name, tensor in seldom.items())


def test_endings_are_told_apart() -> None:
    assert {ending.value for ending in Ending} == {"complete", "limit", "interrupted"}
    assert dataclasses.is_dataclass(run.Parts)
