import pytest
import torch

from trainer.peak import measured_peak


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_peak_is_measured_in_the_dtype_of_training(precision: str) -> None:
    assert measured_peak(torch.device("cpu"), precision, side=64) > 1e6
