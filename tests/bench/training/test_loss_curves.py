"""The arithmetic of ``bench.training.loss_curves``."""

import pytest

from bench.training.loss_curves import WINDOW, compare, smooth


def test_smoothing_takes_means_of_whole_windows() -> None:
    losses = [float(step) for step in range(WINDOW + 2)]
    first = (WINDOW - 1) / 2
    assert smooth(losses) == pytest.approx([first, first + 1, first + 2])
    assert smooth([1.0, 3.0]) == [2.0]


def test_curves_are_equal_if_they_are_no_farther_apart_than_two_seeds() -> None:
    curve = [float(step % 7) for step in range(60)]
    near, far = [loss + 0.01 for loss in curve], [loss + 0.1 for loss in curve]
    figures = compare({"ours": curve, "huggingface": near, "another seed": far})
    assert figures["between_sides"] == pytest.approx(0.01)
    assert figures["between_seeds"] == pytest.approx(0.1)
    assert figures["equal_within_noise"] is True
    swapped = compare({"ours": curve, "huggingface": far, "another seed": near})
    assert swapped["equal_within_noise"] is False
