"""Groups of both versions, as files of a made-up system."""

from pathlib import Path

import pytest

from lm.machine import cgroup, cores

GIB = 1 << 30
NO_LIMIT = 9223372036854771712
"""What the kernel writes."""


def write(group: Path, **files: str | int) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (group / name.replace("__", ".")).write_text(f"{text}\n")


def member(tmp_path: Path, *lines: str) -> tuple[Path, Path]:
    """Arguments of a process with this ``/proc/self/cgroup``."""
    (tmp_path / "membership").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path / "membership", tmp_path / "root"


def test_the_least_limit_of_nested_groups_holds(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "a", memory__max=GIB, memory__current=700, cpu__max="150000 100000")
    write(root / "a" / "b", memory__max="max", memory__current=600, cpu__max="max 100000")
    write(
        root / "a" / "b" / "c", memory__max=4 * GIB, memory__current=500, cpu__max="400000 100000"
    )
    arguments = member(tmp_path, "0::/a/b/c")
    assert cgroup.available_bytes(*arguments) == GIB - 700
    assert cgroup.limit_cores(*arguments) == 1.5


def test_page_cache_that_can_be_dropped_is_not_used(tmp_path: Path) -> None:
    write(
        tmp_path / "root",
        memory__max=1000,
        memory__current=700,
        memory__stat="active_file 50\ninactive_file 100",
    )
    assert cgroup.available_bytes(*member(tmp_path, "0::/")) == 400


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
def test_version_1_has_a_tree_for_each_controller(tmp_path: Path, mount: str) -> None:
    root = tmp_path / "root"
    usage = {"memory__usage_in_bytes": 700, "memory__stat": "total_inactive_file 100"}
    write(root / "memory", memory__limit_in_bytes=NO_LIMIT, **usage)
    write(root / "memory" / "docker" / "x", memory__limit_in_bytes=1000, **usage)
    write(root / mount, cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    write(root / mount / "docker" / "x", cpu__cfs_quota_us=50000, cpu__cfs_period_us=100000)
    arguments = member(
        tmp_path, "9:name=systemd:/", "4:memory:/docker/x", "3:cpu,cpuacct:/docker/x", "0::/"
    )
    assert cgroup.available_bytes(*arguments) == 400
    assert cgroup.limit_cores(*arguments) == 0.5


def test_a_hosts_path_inside_of_a_container_leads_to_the_mount(tmp_path: Path) -> None:
    """Without a name space: the path is the host's, and what is mounted is the group itself."""
    write(tmp_path / "root" / "memory", memory__limit_in_bytes=1000, memory__usage_in_bytes=100)
    write(tmp_path / "root" / "cpu", cpu__cfs_quota_us=200000, cpu__cfs_period_us=100000)
    arguments = member(tmp_path, "4:memory:/docker/abc", "1:cpu:/../other")
    assert cgroup.available_bytes(*arguments) == 900
    assert cgroup.limit_cores(*arguments) == 2.0


@pytest.mark.parametrize(
    "lines", [[], ["nonsense"], ["0::/"], ["4:memory:/", "0::/gone"]], ids=" ".join
)
def test_no_limit_is_none(tmp_path: Path, lines: list[str]) -> None:
    write(tmp_path / "root", memory__max="max", cpu__max="max 100000")
    write(tmp_path / "root" / "memory", memory__limit_in_bytes=NO_LIMIT, memory__usage_in_bytes=5)
    arguments = member(tmp_path, *lines)
    assert cgroup.available_bytes(*arguments) is None
    assert cgroup.limit_cores(*arguments) is None


def test_a_system_without_groups_has_no_limit(tmp_path: Path) -> None:
    assert cgroup.available_bytes(tmp_path / "no", tmp_path / "no") is None
    assert cgroup.limit_cores(tmp_path / "no", tmp_path / "no") is None


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, 64), (0.5, 1), (1.5, 2), (4.0, 4), (100.0, 64)]
)
def test_a_quota_bounds_the_cores(
    monkeypatch: pytest.MonkeyPatch, limit: float | None, expected: int
) -> None:
    monkeypatch.setattr(cores, "allowed_cores", lambda: 64)
    monkeypatch.setattr(cgroup, "limit_cores", lambda: limit)
    assert cores.usable_cores() == expected
