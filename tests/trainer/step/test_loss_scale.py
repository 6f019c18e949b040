"""The scale alone, and a float16 run of the loop on a CPU with a loss that overflows on purpose."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_run import journal_of, samples_of, tensors_of, toy_recipe, train_toy

from lm.model.decoder import Decoder
from lm.volume import newest_step
from trainer.run import assemble as run
from trainer.run.optimizer_steps import MAX_SKIPPED_IN_A_ROW, Diverged
from trainer.step.counters import Counters
from trainer.step.loss import batch_loss
from trainer.step.loss_scale import GROWTH_INTERVAL, INITIAL_SCALE, next_scale

ONE_EACH = toy_recipe("batch.grad_accum_steps=1", "phases.0.steps=20", "cadence.sample_every=10")
TOKENS = 32
"""In one step of it."""


def test_an_overflow_halves_the_scale_down_to_one() -> None:
    assert next_scale(8.0, 100, skipped=True) == (4.0, 0)
    assert next_scale(1.0, 0, skipped=True) == (1.0, 0)


def test_the_scale_doubles_after_enough_good_steps() -> None:
    assert next_scale(8.0, 5, skipped=False) == (8.0, 6)
    assert next_scale(8.0, GROWTH_INTERVAL - 1, skipped=False) == (16.0, 0)


@pytest.mark.parametrize(
    ("scale", "loss", "counts"),
    [
        (4.0, 2.0, False),  # a lower scale may cure it
        (1.0, 2.0, True),  # there is no lower one
        (4.0, float("nan"), True),  # no scale touches the loss itself
        (None, 2.0, True),
    ],
)
def test_only_what_no_scale_can_cure_counts_towards_divergence(
    scale: float | None, loss: float, counts: bool
) -> None:
    before = Counters(loss_scale=scale, skipped_in_a_row=3)
    after = before.after_step(micro_steps=1, tokens=8, loss=loss, skipped=True)
    assert after.skipped_in_a_row == 3 + counts
    assert after.skipped_steps == 1


class Overflow(torch.autograd.Function):
    """Identity whose gradient has no numbers above a limit."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        ctx.limit = limit
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.where(gradient > ctx.limit, torch.inf, gradient), None


@pytest.fixture
def overflowing(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Make toy runs float16 ones whose gradients overflow above a factor on the loss."""

    def apply(limit: float) -> None:
        def loss(decoder: Decoder, inputs: Tensor, targets: Tensor) -> Tensor:
            return Overflow.apply(batch_loss(decoder, inputs, targets), limit)

        monkeypatch.setattr(run, "batch_loss", loss)
        monkeypatch.setattr(run, "choose_precision", lambda *_: ("float16", "float16: a stub"))

    return apply


def saved_counters(volume: Path) -> dict[str, Any]:
    step = newest_step(volume / "toy")
    assert step is not None
    counters: dict[str, Any] = json.loads((step.path / "training_state.json").read_text())[
        "counters"
    ]
    return counters


def test_overflows_are_skipped_until_the_scale_fits_and_touch_nothing(
    tmp_path: Path, overflowing: Callable[[float], None]
) -> None:
    halvings = MAX_SKIPPED_IN_A_ROW + 1
    overflowing(INITIAL_SCALE / TOKENS / 2**halvings)
    train_toy(tmp_path, ONE_EACH, last_step=1)
    first = tensors_of(tmp_path)
    train_toy(tmp_path, ONE_EACH, last_step=halvings)
    assert all(torch.equal(tensor, first[name]) for name, tensor in tensors_of(tmp_path).items())
    assert all(name.startswith("model.safetensors:") for name in tensors_of(tmp_path))
    train_toy(tmp_path, ONE_EACH, last_step=halvings + 2)
    trained = [line["step"] for line in journal_of(tmp_path) if line["kind"] == "train"]
    assert trained == [halvings + 1, halvings + 2]
    counters = saved_counters(tmp_path)
    assert counters["loss_scale"] == INITIAL_SCALE / 2**halvings
    assert counters["steps_at_scale"] == 2
    assert (counters["skipped_steps"], counters["skipped_in_a_row"]) == (halvings, 0)


def test_a_run_with_a_scale_resumes_bit_for_bit(
    tmp_path: Path, overflowing: Callable[[float], None]
) -> None:
    overflowing(INITIAL_SCALE / TOKENS / 4)
    train_toy(tmp_path / "whole", ONE_EACH)
    for stop in (1, 2, 9):
        train_toy(tmp_path / "pieces", ONE_EACH, last_step=stop)
    train_toy(tmp_path / "pieces", ONE_EACH)
    pieces, whole = tensors_of(tmp_path / "pieces"), tensors_of(tmp_path / "whole")
    assert all(torch.equal(pieces[name], tensor) for name, tensor in whole.items())
    assert journal_of(tmp_path / "pieces") == journal_of(tmp_path / "whole")
    assert samples_of(tmp_path / "pieces") == samples_of(tmp_path / "whole")


def test_gradients_that_never_fit_end_the_run(
    tmp_path: Path, overflowing: Callable[[float], None]
) -> None:
    overflowing(0.0)
    recipe = toy_recipe("batch.grad_accum_steps=1", "phases.0.steps=40")
    with pytest.raises(Diverged, match=f"not finite {MAX_SKIPPED_IN_A_ROW} times in a row"):
        train_toy(tmp_path, recipe)


def test_other_precisions_have_no_scale(tmp_path: Path) -> None:
    train_toy(tmp_path, ONE_EACH, last_step=1)
    assert saved_counters(tmp_path)["loss_scale"] is None
    assert dataclasses.asdict(Counters())["loss_scale"] is None
