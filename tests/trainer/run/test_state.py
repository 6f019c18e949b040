import dataclasses
import json
from pathlib import Path

import pytest
import torch
from toy_run import toy_recipe
from toys import publish_toy

from lm.volume import VolumeError
from trainer.run.state import TrainingState, load_state, state_files
from trainer.step.counters import Counters
from trainer.step.evaluate import Evaluation

STATE = TrainingState(
    counters=Counters(micro_step=12, tokens_seen=768, loss_average=1 / 3, best_step=4),
    precision="bfloat16",
    horizons=(8, 4),
    recipe=toy_recipe().binding(),
    versions={"torch": "2", "threads": "2"},
)
MOMENTS = {"a.weight/exp_avg": torch.arange(6.0).view(2, 3), "a.weight/step": torch.tensor(7.0)}


def test_a_state_comes_back_as_it_was_written(tmp_path: Path) -> None:
    step = publish_toy(tmp_path, "toy", 6, extra_files=state_files(STATE, MOMENTS), resumable=True)
    state, moments = load_state(step)
    assert state == STATE
    assert moments.keys() == MOMENTS.keys()
    assert all(torch.equal(moments[name], tensor) for name, tensor in MOMENTS.items())


def test_a_state_of_another_format_is_refused_by_its_number() -> None:
    content = json.loads(STATE.to_json()) | {"format_version": 99}
    with pytest.raises(VolumeError, match=r"here: training state of format 99"):
        TrainingState.from_json(json.dumps(content).encode(), "here")


@pytest.mark.parametrize("content", [b"{", b"{}", b'{"format_version": 1}'])
def test_a_broken_state_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(VolumeError, match=r"^here: malformed training state"):
        TrainingState.from_json(content, "here")


def test_broken_moments_are_refused_in_one_line(tmp_path: Path) -> None:
    files = state_files(STATE, MOMENTS)
    files["training_state.safetensors"] = lambda path: path.write_bytes(b"x" * 20)
    step = publish_toy(tmp_path, "toy", 6, extra_files=files, resumable=True)
    with pytest.raises(VolumeError, match=r"training_state\.safetensors: "):
        load_state(step)


def test_the_average_is_a_mean_at_first_and_forgets_later() -> None:
    counters = Counters()
    for loss in (4.0, 2.0, 3.0):
        counters = counters.after_step(micro_steps=1, tokens=8, loss=loss, skipped=False)
    assert counters.loss_average == pytest.approx(3.0)
    assert (counters.micro_step, counters.tokens_seen) == (3, 24)
    late = dataclasses.replace(counters, micro_step=10_000)
    late = late.after_step(micro_steps=1, tokens=8, loss=4.0, skipped=False)
    assert late.loss_average == pytest.approx(3.0 + 0.02)


def test_a_skipped_step_counts_but_leaves_the_average() -> None:
    counters = Counters(loss_average=2.0, micro_step=5)
    for _ in range(2):
        counters = counters.after_step(micro_steps=1, tokens=8, loss=float("nan"), skipped=True)
    assert (counters.skipped_steps, counters.skipped_in_a_row) == (2, 2)
    assert counters.loss_average == 2.0
    counters = counters.after_step(micro_steps=1, tokens=8, loss=2.0, skipped=False)
    assert (counters.skipped_steps, counters.skipped_in_a_row) == (2, 0)


def test_the_best_step_is_the_one_with_the_lowest_validation_loss() -> None:
    counters = Counters()
    for step, loss in ((10, 3.0), (20, 2.0), (30, 2.5)):
        counters = counters.after_evaluation(step, Evaluation(loss, loss / 2, 100))
    assert (counters.best_step, counters.best_validation_loss) == (20, 2.0)
    assert (counters.evaluated_at, counters.validation_loss) == (30, 2.5)
    assert counters.bits_per_byte == 1.25


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_an_evaluation_that_is_not_finite_is_no_measurement(loss: float) -> None:
    counters = Counters().after_evaluation(10, Evaluation(3.0, 1.5, 100))
    counters = counters.after_evaluation(20, Evaluation(loss, loss, 100))
    assert (counters.evaluated_at, counters.validation_loss, counters.bits_per_byte) == (
        20, None, None,
    )  # fmt: skip
    assert (counters.best_step, counters.best_validation_loss) == (10, 3.0)
    assert dataclasses.replace(STATE, counters=counters).to_json()
