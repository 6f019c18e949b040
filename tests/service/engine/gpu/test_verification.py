import functools

import pytest
import torch
from serving import gpu_runner
from toys import toy_decoder

from service.engine.gpu.buffers.recorded import RecordedDecode, RecordedFlat
from service.engine.gpu.verification import distance, distances, why_wrong


def test_right_kernels_pass() -> None:
    runner = gpu_runner(toy_decoder(0).double())
    assert distance(runner) < 1e-6
    assert why_wrong(runner) is None


def test_steps_over_other_weights_are_found_out() -> None:
    """As if a kernel read a matrix from the wrong place."""
    runner = gpu_runner(toy_decoder(0).double())
    right = runner.score

    def score_of_others(token_ids: list[int]) -> torch.Tensor:
        layer = runner.weight_set.weights.layers[0]
        kept = layer.out.clone()
        layer.out.copy_(kept.roll(1, 0) + 0.3)
        try:
            return right(token_ids)
        finally:
            layer.out.copy_(kept)

    runner.score = score_of_others  # type: ignore[method-assign]
    reason = why_wrong(runner)
    assert reason is not None
    assert "away from the definition" in reason


def test_weights_that_are_not_finite_are_left_to_the_gate() -> None:
    runner = gpu_runner(toy_decoder(0).double())
    runner.weight_set.weights.norm.fill_(torch.nan)
    assert why_wrong(runner) is None


def test_every_recorded_step_is_compared() -> None:
    runner = gpu_runner(toy_decoder(0).double(), num_slots=5, max_step_tokens=40)
    found = distances(runner)
    assert list(found) == [
        *("flat 16", "flat 32", "flat 64"),
        *(f"decode {rows} up to {runner.cache.max_tokens}" for rows in (1, 2, 4, 5)),
    ]
    assert max(found.values()) < 1e-6


def spoil(step: RecordedDecode | RecordedFlat, value: float) -> None:
    """Let a step leave something else behind than it computes."""
    forward = step.forward
    target = step.logits[-1:] if isinstance(step, RecordedDecode) else None

    def wrong(hidden: torch.Tensor | None = None) -> None:
        forward()
        (target if target is not None else hidden).fill_(value)  # type: ignore[union-attr]

    step.forward = wrong


@pytest.mark.parametrize("value", [3.0, torch.nan, torch.inf])
def test_one_row_of_one_step_that_is_wrong_is_found_out(value: float) -> None:
    runner = gpu_runner(toy_decoder(0).double(), num_slots=5, max_step_tokens=40)
    _, _, step = runner.weight_set.decodes[2]
    spoil(step, value)
    reason = why_wrong(runner)
    assert reason is not None
    assert reason.startswith(f"logits of decode 4 up to {runner.cache.max_tokens} are ")


def test_one_flat_step_that_is_wrong_is_found_out() -> None:
    runner = gpu_runner(toy_decoder(0).double(), num_slots=5, max_step_tokens=40)
    step = list(runner.weight_set.flats.values())[-1]
    spoil(step, 3.0)
    step.forward = functools.partial(step.forward, runner.weight_set.hidden)
    reason = why_wrong(runner)
    assert reason is not None
    assert reason.startswith("logits of flat 64 are ")


def test_trying_every_step_leaves_what_is_served_alone() -> None:
    runner = gpu_runner(toy_decoder(0).double(), num_slots=3)
    runner.cache.key.fill_(7.0)
    assert why_wrong(runner) is None
    assert bool((runner.cache.key[:, :-1] == 7.0).all()), "the slot that no sequence gets alone"
