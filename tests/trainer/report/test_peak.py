import time

import pytest
import torch
from torch import Tensor

from trainer.report.peak import measured_peak


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_peak_is_measured_in_the_dtype_of_training(precision: str) -> None:
    assert measured_peak(torch.device("cpu"), precision, side=64) > 1e6


def test_what_the_first_product_waits_for_is_no_part_of_the_peak(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    multiply, calls = torch.mm, 0

    def slow_at_first(a: Tensor, b: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 1:
            time.sleep(0.4)
        return multiply(a, b)

    monkeypatch.setattr(torch, "mm", slow_at_first)
    assert measured_peak(torch.device("cpu"), "float32", side=64) > 2 * 64**3 / 0.1
    assert calls > 1
