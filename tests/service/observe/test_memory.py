import subprocess
import sys
from pathlib import Path

import pytest

from service.observe import memory

MEMINFO = "MemTotal:       16000000 kB\nMemFree:  100 kB\nMemAvailable:    2000000 kB\n"


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text(MEMINFO)
    return path


@pytest.mark.parametrize(
    ("left", "expected"),
    [(None, 2_048_000_000), (400, 400), (0, 0), (9_000_000_000, 2_048_000_000)],
)
def test_a_groups_limit_counts_if_it_is_less(
    meminfo: Path, left: int | None, expected: int
) -> None:
    assert memory.available_bytes(meminfo, lambda: left) == expected


def test_a_system_that_says_nothing_bounds_nothing(tmp_path: Path) -> None:
    assert memory.available_bytes(tmp_path / "no", lambda: None) is None


def test_this_machine_has_some_memory() -> None:
    available = memory.available_bytes()
    assert available is None or available > 1_000_000
    memory.trim()


MIB = 1 << 20


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([100, 100, 110], [False, False]),
        ([100, 600, 1100, 1101], [False, False, True]),
        ([100, 600, 300, 100], [False, True, False]),
        ([300, 100, 120, 125, 125], [False, False, False, True]),
    ],
    ids=["little", "after growth", "freed by itself", "from the least"],
)
def test_memory_is_given_back_once_it_grows_no_more(seen: list[int], expected: list[bool]) -> None:
    looks = iter(seen)
    trimmer = memory.Trimmer(lambda: next(looks) * MIB)
    assert [trimmer.is_due() for _ in seen[1:]] == expected


def test_what_is_still_there_is_in_use() -> None:
    looks = iter([100, 600, 601, 500, 500, 500])
    trimmer = memory.Trimmer(lambda: next(looks) * MIB)
    assert [trimmer.is_due(), trimmer.is_due()] == [False, True]
    trimmer.on_trimmed()
    assert not trimmer.is_due()


def test_few_arenas_are_a_setting_of_the_process() -> None:
    """Eight threads that allocate have two heaps: of the others' no part is mapped."""
    program = (
        "import ctypes, sys, threading\n"
        "from service import memory\n"
        "memory.have_few_arenas()\n"
        "libc = ctypes.CDLL(None)\n"
        "barrier = threading.Barrier(8)\n"
        "def work():\n"
        "    barrier.wait()\n"
        "    for _ in range(100): bytearray(100_000)\n"
        "    barrier.wait()\n"
        "threads = [threading.Thread(target=work) for _ in range(8)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "libc.malloc_stats()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("another C library")
    assert 1 <= done.stderr.count("Arena ") <= memory.ARENAS


def test_a_process_knows_its_memory(tmp_path: Path) -> None:
    resident = memory.resident_bytes()
    assert resident is None or resident > 10 * MIB
    assert memory.resident_bytes(tmp_path / "no") is None
