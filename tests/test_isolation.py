"""Tests have a home of their own, and turns that one of them can have alone."""

import fcntl
import os
import tempfile
import threading
import types
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from isolation import KERNELS, USER_HOME, beside_sources, share_kernels
from serving.waiting import wait_until
from worker_turns import Turns, pytest_collection_modifyitems


def test_home_and_caches_are_temporary_and_kernels_the_users() -> None:
    home = Path.home()
    assert home.is_relative_to(tempfile.gettempdir())
    assert home != Path(os.environ[USER_HOME])
    assert not [name for name in os.environ if name.startswith("XDG_")]
    kernels = home / ".cache" / KERNELS
    assert not kernels.exists() or not kernels.resolve().is_relative_to(home)


def test_a_worker_computes_with_one_thread() -> None:
    assert torch.get_num_threads() == 1


def test_kernels_without_a_home_are_the_sessions_own(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    share_kernels(tmp_path / "file" / "native", tmp_path / "home" / "native")
    assert list((tmp_path / "home").iterdir()) == []


def test_caches_of_tools_are_nothing_that_a_test_left() -> None:
    assert not [path for path in beside_sources() if "__pycache__" in path]


def test_a_name_that_another_worker_would_not_have_is_refused() -> None:
    item: Any = types.SimpleNamespace(nodeid="test_x[<function f at 0x7f00>]")
    with pytest.raises(pytest.UsageError, match="test_x"):
        pytest_collection_modifyitems([item])


@pytest.fixture
def turns(tmp_path: Path) -> Iterator[list[Turns]]:
    """Of three workers."""
    with ExitStack() as stack:
        yield [stack.enter_context(Turns(tmp_path)) for _ in range(3)]


def test_one_alone_waits_for_the_others_and_nobody_comes_between(
    turns: list[Turns], tmp_path: Path
) -> None:
    first, lonely, later = turns
    said: list[str] = []

    def take(turns: Turns, name: str, *, alone: bool) -> None:
        with turns.take(alone=alone):
            said.append(name)

    def door_is_shut() -> bool:
        with (tmp_path / "door").open() as door:
            try:
                fcntl.flock(door, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    with first.take(alone=False):
        take(later, "beside", alone=False)
        waiting = [
            threading.Thread(target=take, args=(one, name), kwargs={"alone": name == "alone"})
            for one, name in ((lonely, "alone"), (later, "after"))
        ]
        waiting[0].start()
        wait_until(door_is_shut, "one waits to be alone")
        waiting[1].start()
        waiting[1].join(0.1)
        assert said == ["beside"]
    for thread in waiting:
        thread.join(20)
    assert said == ["beside", "alone", "after"]
