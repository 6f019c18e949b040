from pathlib import Path

import pytest

from service import memory

MEMINFO = "MemTotal:       16000000 kB\nMemFree:  100 kB\nMemAvailable:    2000000 kB\n"


def machine(tmp_path: Path, **cgroup: str) -> tuple[Path, Path]:
    (tmp_path / "meminfo").write_text(MEMINFO)
    for name, text in cgroup.items():
        (tmp_path / name.replace("_", ".")).write_text(text)
    return tmp_path / "meminfo", tmp_path


def test_a_machine_says_what_is_available(tmp_path: Path) -> None:
    assert memory.available_bytes(*machine(tmp_path)) == 2_048_000_000


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("1000", 400), ("max", 2_048_000_000), ("500", 0), ("9000000000", 2_048_000_000)],
)
def test_a_containers_limit_counts_if_it_is_less(tmp_path: Path, limit: str, expected: int) -> None:
    """Page cache that can be dropped is no use of memory."""
    paths = machine(
        tmp_path,
        memory_max=f"{limit}\n",
        memory_current="700\n",
        memory_stat="active_file 50\ninactive_file 100\n",
    )
    assert memory.available_bytes(*paths) == expected


def test_a_system_that_says_nothing_bounds_nothing(tmp_path: Path) -> None:
    assert memory.available_bytes(tmp_path / "no", tmp_path / "no") is None


def test_this_machine_has_some_memory() -> None:
    available = memory.available_bytes()
    assert available is None or available > 1_000_000
    memory.trim()
