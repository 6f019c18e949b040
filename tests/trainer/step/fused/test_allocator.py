import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from trainer.step.fused.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    return len([torch.ones(1 << 24) for _ in range(4)])
for _ in range(5):
    step()
before = faults()
for _ in range(10):
    step()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_large_blocks_that_were_given_back_are_taken_again_without_page_faults() -> None:
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", PROGRAM, how]))
        for how in ("keep", "give")
    }
    assert faults["give"] > 100_000
    assert faults["give"] > 10 * faults["keep"]
