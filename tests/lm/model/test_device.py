import pytest
import torch

from lm.model import device
from lm.model.device import bfloat16_speedup, pick_device

CPU = torch.device("cpu")


def test_auto_is_cuda_where_there_is_one_and_else_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=is_available: answer)
        assert pick_device("auto").type == kind


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_cuda_asked_for_in_vain_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"'{name}' asked for, but PyTorch sees no CUDA"):
        pick_device(name)


def test_the_cpu_can_always_be_had() -> None:
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize("name", ["", "gpu", "tpu:0", "cpu:x"])
def test_an_unknown_device_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match="use auto, cpu or cuda"):
        pick_device(name)


def test_the_speedup_is_float32s_time_over_bfloat16s(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def clocked(where: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int]) -> float:
        asked.append((where, sizes))
        return {torch.float32: 6.0, torch.bfloat16: 2.0}[dtype]

    monkeypatch.setattr(device, "_matmul_seconds", clocked)
    assert bfloat16_speedup(CPU, rows=4, width=5, inner=6) == 3.0
    assert asked == [(CPU, (4, 5, 6))] * 2


def test_the_measurement_runs_and_is_positive() -> None:
    assert bfloat16_speedup(CPU, rows=4, width=64, inner=96) > 0.0
