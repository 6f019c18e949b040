from pathlib import Path

import pytest

from service import memory

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
