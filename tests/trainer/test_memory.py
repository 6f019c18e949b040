import torch

from trainer.memory import gpu_bytes, resident_bytes


def test_memory_that_is_written_to_becomes_resident() -> None:
    before = resident_bytes()
    block = torch.ones(2**25)  # 128 MiB
    assert resident_bytes() - before > 2**26
    del block


def test_a_cpu_has_no_gpu_memory() -> None:
    assert gpu_bytes(torch.device("cpu")) is None
