import mmap

import torch

from trainer.report.memory import gpu_bytes, resident_bytes


def test_memory_that_is_written_to_becomes_resident() -> None:
    before = resident_bytes()
    with mmap.mmap(-1, 2**27) as block:  # a tensor could get pages that were there already
        block.write(bytes(2**27))
        assert resident_bytes() - before > 2**26


def test_a_cpu_has_no_gpu_memory() -> None:
    assert gpu_bytes(torch.device("cpu")) is None
